"""The monitor's SQLite file; see `treehead.sqlite` for how it is written.

logs        what is known of each log: its verified head and right edge, progress towards the next, our cosignature
tiles       full tiles; those beyond the verified size belong to the progress and may be dropped with it
notes       every head that the log signed, the note byte for byte, from whom and when
parked      heads that are larger than the verified tree and wait to be judged
evidence    one row for each evidence file; with one, the log has misbehaved, for good
suspicions  what is odd about a log, and what once was
peers       how calls to each peer went
"""

from __future__ import annotations

from pathlib import Path

from treehead.sqlite import Schema, create

SCHEMA = Schema(
    owner="monitor",
    application_id=0x5448524D,  # "THRM"
    version=1,
    statements="""
create table logs (
    id blob primary key, vkey text not null, address text not null, followed integer not null, contact_ms integer,
    size integer, note blob, edge blob, verified_ms integer,
    progress_size integer, progress_edge blob,
    cosigned_size integer, cosigned_at integer, cosigned blob
) strict;
create table tiles (
    log blob not null, level integer not null, number integer not null, hashes blob not null,
    primary key (log, level, number)
) strict;
create table notes (
    log blob not null, size integer not null, root blob not null, data blob not null, source text not null,
    seen_ms integer not null, primary key (log, size, root)
) strict;
create table parked (
    log blob not null, size integer not null, root blob not null, source text not null, since_ms integer not null,
    primary key (log, size, root)
) strict;
create table evidence (
    id blob primary key, log blob not null, fork text not null, size1 integer not null, size2 integer not null,
    source text not null, kept_ms integer not null
) strict;
create table suspicions (
    log blob not null, doubt text not null, reason text not null, since_ms integer not null, count integer not null,
    standing integer not null, primary key (log, doubt)
) strict;
create table peers (
    address text primary key, configured integer not null, contact_ms integer, failures integer not null,
    failing_since_ms integer, error text not null, faults integer not null
) strict;
""",
)


def create_database(path: Path) -> None:
    """Make the file of a monitor that follows nothing yet, durably.

    Raises:
        StorageError: it cannot be written; nothing is left behind.
    """
    create(path, SCHEMA)
