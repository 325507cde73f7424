"""nnsight 0.8: a model in an nnsight trace, here or on a server, behind the verbs of `interp.Model`."""

from interp.backends.nnsight.opening import bridged as bridged
from interp.backends.nnsight.opening import open_model as open_model
from interp.backends.nnsight.opening import wrap_model as wrap_model
from interp.backends.nnsight.saved import trace_of as trace_of
