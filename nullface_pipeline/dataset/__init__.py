"""Anonymization of data sets in shards, on one process, several GPUs or a Ray cluster.

The unit of work is a shard: a Parquet file, a WebDataset tar, or some hundred photos of a folder. A worker reads one,
hides the faces, writes one of the same name, and last of all the shard's report with the hashes of both. A shard is
done as long as these match. Doing a shard twice gives the same and harms nothing; so an engine may retry whatever it likes, and a stopped run goes on by
being given again.
"""

from nullface_pipeline.dataset.engines import run_accelerate, run_local, run_ray
from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.report import RunSummary, summarize
from nullface_pipeline.dataset.secret_seed import read_or_draw_seed, seed_path
from nullface_pipeline.dataset.shards import Shard, begin, claim_target, find_shards
from nullface_pipeline.dataset.storage import StorageLocation
from nullface_pipeline.dataset.worker import ShardOutcome, ShardWorker
