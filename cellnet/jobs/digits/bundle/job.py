"""The digits job: federated averaging of a small network over the sites' own images.

A bundle is what travels to the sites. The images do not: every site takes its shard from the installed package.
"""

from __future__ import annotations

from typing import Any

from cellnet.jobs import ClientJob, ServerJob, Weighted, weighted_mean
from cellnet.jobs.digits.dataset import shards, split
from cellnet.jobs.digits.model import evaluated, initial_model, local_rng, trained

SETTINGS = {"seed": 1, "rounds": 25, "epochs": 4, "rate": 0.3, "ballast_mib": 0}
"""What the submitter's configuration does not say."""


async def server(job: ServerJob) -> dict[str, Any]:
    """Lead the rounds; return the trained weights, and what they are worth on images that no site has."""
    settings = SETTINGS | job.config
    _, test = split()
    model = initial_model(settings["seed"], settings["ballast_mib"])
    accuracy, loss = evaluated(model, test)
    for number in range(1, settings["rounds"] + 1):
        task = {**settings, "round": number, "sites": list(job.sites), "model": model}
        update = await job.map_reduce("train", task, combine=weighted_mean)
        model = update.mean
        accuracy, loss = evaluated(model, test)
        await job.report(round=number, accuracy=accuracy, loss=loss)
    return {"accuracy": accuracy, "loss": loss, "model": model}


def train(job: ClientJob, task: dict[str, Any]) -> Weighted:
    """Train the model on this site's own images; it weighs as much as there are images."""
    images = shards(task["sites"], task["seed"])[job.fqsn]
    rng = local_rng(task["seed"], job.fqsn, task["round"])
    return Weighted(trained(task["model"], images, rng, epochs=task["epochs"], rate=task["rate"]), len(images))


tasks = {"train": train}
