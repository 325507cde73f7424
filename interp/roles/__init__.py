"""What heads of a circuit do: published classes by their detection rules, and roles in any task.

    table = ioi_classes(model, Task.load("ioi", counterfactual="names"))
    table[table["class"] != ""]
    roles(model, Task.load("colored_objects"))  # the same words for every task

Notes, among them which classes have no head and why, are in `table.attrs["notes"]`.
"""

from interp.roles.general import ROLES, roles
from interp.roles.ioi import CLASSES, ioi_classes

__all__ = ["CLASSES", "ROLES", "ioi_classes", "roles"]
