"""Jobs: code that a federation runs at its sites, and what that code may use.

A bundle is a folder with ``job.py``, which holds ``async def server(job: ServerJob)`` and a mapping ``tasks`` of names
to functions. A task is called as ``task(job: ClientJob, value)``; a plain function runs in a thread, an ``async`` one
in the event loop, which it must not block.
"""

from cellnet.jobs.collective import TaskFailed
from cellnet.jobs.job import ClientJob, ServerJob
from cellnet.jobs.reduction import Update, Weighted, weighted_mean

__all__ = ["ClientJob", "ServerJob", "TaskFailed", "Update", "Weighted", "weighted_mean"]
