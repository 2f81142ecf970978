"""Students: the interval embedding, ``Student``, ``sample`` and ``load_student``."""

from mfdistill.students.interval import IntervalEmbedding, replace_module
from mfdistill.students.load import load_student, save_student, student_kinds
from mfdistill.students.student import Student, given, sample

__all__ = [
    "IntervalEmbedding",
    "Student",
    "given",
    "load_student",
    "replace_module",
    "sample",
    "save_student",
    "student_kinds",
]
