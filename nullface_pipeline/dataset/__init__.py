"""Anonymization of data sets in shards, on one process, several GPUs or a Ray cluster.

The unit of work is a shard: a Parquet file, a WebDataset tar, or a few hundred photos of a folder.
A worker reads it, anonymizes the photos, writes a shard of the same name, and finally a report with
the hashes of both. A shard is done while these match. Shards can be retried, because a repeated run
gives the same result; to resume a stopped run, repeat it.
"""

from nullface_pipeline.dataset.engines import run_accelerate, run_local, run_ray
from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.report import RunSummary, summarize
from nullface_pipeline.dataset.secret_seed import read_or_draw_seed, seed_path
from nullface_pipeline.dataset.shards import Shard, begin, claim_target, find_shards
from nullface_pipeline.dataset.storage import StorageLocation
from nullface_pipeline.dataset.worker import ShardOutcome, ShardWorker
