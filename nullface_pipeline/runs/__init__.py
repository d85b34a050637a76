"""What runs over files share, whatever they process: folders of photos, videos, data sets and evaluations.

It reads no photo and imports no room of the package. A result is written whole (`atomic_files`), under a lock
(`lock`), after its hashes (`digests`) were recorded in the state folder (`records`), from which the next run resumes
(`resume`).
"""
