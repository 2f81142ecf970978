"""The finishing stage of students: its settings, and its losses, one kind per file.

Every loss is ``loss(task, z_1, batch) -> (b,)`` of what the sampler reached, features as the task
makes them.
"""
