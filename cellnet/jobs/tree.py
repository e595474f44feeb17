"""The tree of a job's processes: it mirrors the client hierarchy, over the sites that were chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellnet.errors import JobError
from cellnet.fqcn import FQSN

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["JobTree", "choose"]

_SERVER = FQSN("server")


class JobTree:
    """Say which of the chosen sites stands above which; the server stands above all."""

    def __init__(self, sites: Iterable[FQSN], *, flat: bool = False) -> None:
        """Build the tree; with *flat*, every site stands right below the server.

        A site whose own parent was not chosen stands below its nearest ancestor that was.
        """
        chosen = set(sites)
        self._parents = {site: _SERVER if flat else _nearest(site, chosen) for site in sorted(chosen)}
        self._children: dict[FQSN, list[FQSN]] = {_SERVER: [], **{site: [] for site in self._parents}}
        for site, parent in self._parents.items():
            self._children[parent].append(site)

    @property
    def sites(self) -> tuple[FQSN, ...]:
        """All chosen sites, in the order of their names."""
        return tuple(self._parents)

    @property
    def top(self) -> tuple[FQSN, ...]:
        """The sites right below the server: as many results reach it in a round."""
        return self.children(_SERVER)

    def parent(self, site: FQSN) -> FQSN:
        """Return the site above *site*, or the server."""
        return self._parents[site]

    def children(self, site: FQSN) -> tuple[FQSN, ...]:
        """Return the sites right below *site*, in the order of their names."""
        return tuple(self._children[site])


def choose(known: Iterable[FQSN], wanted: Iterable[str] | None) -> tuple[FQSN, ...]:
    """Return the sites that *wanted* means, by base name or FQSN; all *known* ones for None.

    :raises JobError: if a name is no known site's, or if there is no site at all
    """
    sites = sorted(known)
    if wanted is None:
        chosen = set(sites)
    else:
        names = {str(site): site for site in sites} | {site.base_name: site for site in sites}
        wanted = list(wanted)
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise JobError(f"there is no site {', '.join(unknown)}: the project has {', '.join(map(str, sites))}")
        chosen = {names[name] for name in wanted}
    if not chosen:
        raise JobError("there is no site to run the job on: name at least one")
    return tuple(sorted(chosen))


def _nearest(site: FQSN, chosen: set[FQSN]) -> FQSN:
    above = site.parent
    while above is not None and not above.is_root:
        if above in chosen:
            return above
        above = above.parent
    return _SERVER
