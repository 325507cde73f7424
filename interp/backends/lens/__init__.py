"""TransformerLens 4: a `TransformerBridge`, live or made from a folder, behind the verbs of `Model`."""

from interp.backends.lens.opening import bridged as bridged
from interp.backends.lens.opening import open_model as open_model
from interp.backends.lens.opening import wrap_model as wrap_model
