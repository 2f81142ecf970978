"""Teachers: the velocity field, and ``load_teacher``."""

from mfdistill.systems.base import FieldFacts, own_facts
from mfdistill.teachers.field import Field
from mfdistill.teachers.folders import load_network
from mfdistill.teachers.load import load_teacher, teacher_kinds

__all__ = ["Field", "FieldFacts", "load_network", "load_teacher", "own_facts", "teacher_kinds"]
