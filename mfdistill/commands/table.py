"""The commands that train."""

from __future__ import annotations

from mfdistill.commands.compress import Compress
from mfdistill.commands.solver_train import SolverTrain
from mfdistill.commands.student_distill import StudentDistill
from mfdistill.commands.student_finish import StudentFinish
from mfdistill.commands.teacher_train import TeacherTrain

TRAINED: tuple[type, ...] = (TeacherTrain, StudentDistill, StudentFinish, SolverTrain, Compress)
"""Their runs hold the command, can be repeated (``--config``) and resumed."""
