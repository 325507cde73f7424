"""Cluttered scenes with the asked object small: what CARVE looks through. A fault of the inputs."""

from interp.faults import FAULTS, Fault

FAULTS.add(
    "cluttered-scenes",
    Fault(
        "cluttered-scenes",
        "demo-vlm",
        ("CARVE",),
        "The object that is asked about is tiny, and stands among many others.",
        None,
        ("colour", {"small": True}),
    ),
)
