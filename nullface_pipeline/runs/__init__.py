"""Infrastructure of runs over files, shared by folders, videos, data sets and evaluation.

It depends on no other sub-package. A result is written atomically (`atomic_files`), under a lock
(`lock`), after its hashes (`digests`) were recorded in the state folder (`records`), and the next run resumes from there
(`resume`).
"""
