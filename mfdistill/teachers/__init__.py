"""Teachers: the protocol, the CFM teacher trained here, and ``load_teacher``."""

from mfdistill.teachers.cfm import CFMTeacher
from mfdistill.teachers.load import TEACHERS, load_network, load_teacher
from mfdistill.teachers.protocol import Teacher

__all__ = ["TEACHERS", "CFMTeacher", "Teacher", "load_network", "load_teacher"]
