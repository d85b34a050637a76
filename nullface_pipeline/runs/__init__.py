"""Infrastructure of runs over files, shared by folders, videos, data sets and evaluation.

It depends on no other sub-package. Results are written atomically (`atomic_files`) under a lock
(`lock`), after their hashes (`digests`) are recorded in the state folder (`records`). The next run
resumes from there (`resume`).
"""
