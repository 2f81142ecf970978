"""Students: the interval embedding, ``Student``, ``sample`` and ``load_student``."""

from mfdistill.students.interval import IntervalEmbedding, replace_module
from mfdistill.students.load import STUDENTS, load_student, save_student
from mfdistill.students.student import Student, given, sample

__all__ = [
    "STUDENTS",
    "IntervalEmbedding",
    "Student",
    "given",
    "load_student",
    "replace_module",
    "sample",
    "save_student",
]
