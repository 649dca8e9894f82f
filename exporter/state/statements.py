"""Pure: the statements of `exporter.state.postgres`: tables, leases, assignments, and the fenced write.

Every statement is a literal; values are parameters. `FENCE` begins each write: it returns a row only to the
holder.
"""

from typing import Final, LiteralString

SCHEMA: Final = 1
"""Version of the tables. Whoever finds a higher one, which a later release has made, writes nothing."""
NEWS: Final = 1000
"""Conversations told in one write; more are told in the next."""
PAGE: Final = 20_000
"""Rows read between two renewals of the lease."""
MOST_EXPIRED: Final = 20_000

# Labels can have more bytes than an entry of an index, which is 2,700. So the key of a series has their hash. The
# cast reads a backslash as the beginning of an escape.
TABLES: Final[LiteralString] = """
CREATE TABLE phonic_shard (
  shard smallint PRIMARY KEY,
  epoch bigint NOT NULL DEFAULT 0,
  write_number bigint NOT NULL DEFAULT 0,
  attempt bigint NOT NULL DEFAULT 0,
  holder text NOT NULL DEFAULT '',
  lease_until timestamptz NOT NULL DEFAULT 'epoch',
  is_drained boolean NOT NULL DEFAULT false,
  is_closed boolean NOT NULL DEFAULT false,
  format integer NOT NULL DEFAULT 0,
  first_start double precision,
  label_names text,
  families text,
  held text
) WITH (fillfactor = 50);
CREATE TABLE phonic_series (
  shard smallint NOT NULL,
  family text NOT NULL,
  labels text NOT NULL,
  layout text NOT NULL,
  numbers text NOT NULL,
  key bytea GENERATED ALWAYS AS (sha256(replace(labels, E'\\\\', E'\\\\\\\\')::bytea)) STORED,
  PRIMARY KEY (shard, family, key)
) WITH (fillfactor = 70);
CREATE TABLE phonic_conversation (
  id text PRIMARY KEY,
  shard smallint NOT NULL,
  progress bytea NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX phonic_conversation_shard ON phonic_conversation (shard, id);
CREATE TABLE phonic_assignment (
  id text PRIMARY KEY,
  shard smallint NOT NULL,
  workspace text NOT NULL,
  word smallint NOT NULL,
  is_taken boolean NOT NULL DEFAULT false,
  ended_at timestamptz
);
CREATE INDEX phonic_assignment_unfinished ON phonic_assignment (shard, id) WHERE ended_at IS NULL;
CREATE INDEX phonic_assignment_new ON phonic_assignment (shard) WHERE ended_at IS NULL AND NOT is_taken;
CREATE INDEX phonic_assignment_ended ON phonic_assignment (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE phonic_lease (
  name text PRIMARY KEY,
  holder text NOT NULL,
  lease_until timestamptz NOT NULL
);
CREATE TABLE phonic_history (
  id text PRIMARY KEY,
  ended_at double precision NOT NULL,
  project text NOT NULL,
  agent text NOT NULL,
  ended_by text NOT NULL,
  is_failed boolean NOT NULL,
  duration double precision,
  turns integer NOT NULL,
  slowest double precision,
  packed bytea NOT NULL
);
CREATE INDEX phonic_history_ended_at ON phonic_history (ended_at);
CREATE TABLE phonic_schema (version integer NOT NULL);
"""

ENSURE: Final[LiteralString] = """
WITH first AS (SELECT min(first_start) AS start FROM phonic_shard)
INSERT INTO phonic_shard (shard, first_start)
SELECT number, first.start FROM generate_series(0, %(count)s - 1) AS number, first
ON CONFLICT (shard) DO UPDATE SET is_drained = false, is_closed = false WHERE phonic_shard.is_drained
"""
DRAIN: Final[LiteralString] = (
    "UPDATE phonic_shard SET is_drained = true, is_closed = (epoch = 0)"
    " WHERE shard >= %(count)s AND NOT is_drained"
)
"""A shard that nobody has ever held has nothing to show, so it is closed at once."""

VERSION: Final[LiteralString] = "SELECT version FROM phonic_schema"
NOT_NEWER: Final[LiteralString] = f"(SELECT version FROM phonic_schema) <= {SCHEMA}"
UNFINISHED: Final[LiteralString] = (
    "EXISTS (SELECT FROM phonic_assignment a WHERE a.shard = s.shard AND a.ended_at IS NULL)"
)
TAKE: Final[LiteralString] = f"""
WITH free AS (
  SELECT s.shard FROM phonic_shard s
  WHERE s.format <= %(format)s AND (NOT s.is_closed OR {UNFINISHED}) AND {NOT_NEWER}
    AND (s.lease_until <= clock_timestamp()
      OR s.holder = %(holder)s AND s.attempt < %(attempt)s AND s.write_number = 0)
  ORDER BY s.is_drained, s.lease_until, s.shard
  FOR UPDATE SKIP LOCKED LIMIT 1
)
UPDATE phonic_shard s
SET epoch = s.epoch + 1, write_number = 0, attempt = %(attempt)s, holder = %(holder)s, format = %(format)s,
  is_closed = false, lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
FROM free WHERE s.shard = free.shard
RETURNING s.shard, s.epoch
"""
"""Only a process without a shard takes one. A shard has its name if the answer to an earlier attempt did not come.

An earlier attempt may also arrive later. Its number is then lower, and it takes nothing of this process.
"""
STATES: Final[LiteralString] = f"""
SELECT s.shard, s.epoch, s.holder,
  extract(epoch FROM greatest(s.lease_until, to_timestamp(0)) - clock_timestamp())::float8, s.is_drained,
  NOT s.is_closed OR {UNFINISHED}, s.format, (SELECT version FROM phonic_schema)
FROM phonic_shard s ORDER BY s.shard
"""
COUNTS: Final[LiteralString] = (
    "SELECT shard, count(*) FROM phonic_assignment WHERE ended_at IS NULL GROUP BY shard"
)
OFFER: Final[LiteralString] = """
WITH offered AS (
  SELECT DISTINCT ON (o.id) o.id, o.workspace, o.word
  FROM unnest(%(ids)s::text[], %(workspaces)s::text[], %(words)s::smallint[]) AS o (id, workspace, word)
  LEFT JOIN phonic_assignment a ON a.id = o.id
  WHERE a.id IS NULL OR a.ended_at IS NULL AND (a.word < o.word OR a.workspace <> o.workspace)
  ORDER BY o.id, o.word DESC
)
INSERT INTO phonic_assignment (id, shard, workspace, word)
SELECT o.id, s.shard, o.workspace, o.word
FROM offered o CROSS JOIN LATERAL (
  SELECT shard FROM phonic_shard WHERE NOT is_drained ORDER BY hashtextextended(o.id, shard) DESC, shard LIMIT 1
) s
ORDER BY o.id
ON CONFLICT (id) DO UPDATE SET word = greatest(phonic_assignment.word, excluded.word), is_taken = false,
  workspace = excluded.workspace
WHERE phonic_assignment.ended_at IS NULL
  AND (phonic_assignment.word < excluded.word OR phonic_assignment.workspace <> excluded.workspace)
"""
"""The workspace is the one that reported it last: an earlier one may have lost its key, or its name.

Rows that need no change are left out first: a conflict would lock them, but writes lock in another order.
"""
ELECT: Final[LiteralString] = """
INSERT INTO phonic_lease (name, holder, lease_until)
SELECT name, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s)
FROM unnest(%(names)s::text[]) AS name ORDER BY name
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
WHERE phonic_lease.holder = excluded.holder OR phonic_lease.lease_until <= clock_timestamp()
RETURNING name
"""
RESIGN: Final[LiteralString] = "DELETE FROM phonic_lease WHERE holder = %(holder)s"

FENCE: Final[LiteralString] = f"""
WITH fence AS (
  UPDATE phonic_shard
  SET write_number = %(number)s, lease_until = clock_timestamp() + make_interval(secs => %(lease)s),
    first_start = coalesce(%(first_start)s, first_start), label_names = coalesce(%(label_names)s, label_names),
    families = coalesce(%(names)s, families), held = coalesce(%(held)s, held)
  WHERE shard = %(shard)s AND epoch = %(epoch)s AND write_number < %(number)s
    AND {NOT_NEWER}
  RETURNING shard, is_drained
)"""
RENEW: Final[LiteralString] = f"{FENCE} SELECT shard FROM fence"
RELEASE: Final[LiteralString] = (
    "UPDATE phonic_shard SET lease_until = 'epoch', holder = '', is_closed = is_drained AND %(is_over)s"
    " WHERE shard = %(shard)s AND epoch = %(epoch)s"
)
PUT: Final[LiteralString] = f"""{FENCE}, series AS (
  INSERT INTO phonic_series (shard, family, labels, layout, numbers)
  SELECT fence.shard, r.family, r.labels, r.layout, r.numbers
  FROM fence, unnest(%(families)s::text[], %(labels)s::text[], %(layouts)s::text[], %(numbers)s::text[])
    AS r (family, labels, layout, numbers)
  ON CONFLICT (shard, family, key) DO UPDATE SET layout = excluded.layout, numbers = excluded.numbers
), gone AS (
  DELETE FROM phonic_conversation c USING fence
  WHERE c.id = ANY(%(gone)s::text[]) AND c.shard = fence.shard
), conversations AS (
  INSERT INTO phonic_conversation (id, shard, progress)
  SELECT r.id, fence.shard, r.progress
  FROM fence, unnest(%(ids)s::text[], %(blobs)b::bytea[]) AS r (id, progress)
  ON CONFLICT (id) DO UPDATE SET progress = excluded.progress WHERE phonic_conversation.shard = excluded.shard
), ended AS (
  UPDATE phonic_assignment a SET ended_at = clock_timestamp(), is_taken = true
  FROM fence WHERE a.id = ANY(%(gone)s::text[]) AND a.shard = fence.shard AND a.ended_at IS NULL
), received AS (
  UPDATE phonic_assignment a SET is_taken = true
  FROM fence, unnest(%(received)s::text[], %(workspaces)s::text[], %(words)s::smallint[])
    AS r (id, workspace, word)
  WHERE a.id = r.id AND a.workspace = r.workspace AND a.word = r.word AND a.shard = fence.shard
    AND NOT a.is_taken AND NOT a.id = ANY(%(gone)s::text[])
), history AS (
  INSERT INTO phonic_history
  SELECT r.* FROM fence, unnest(%(h_id)s::text[], %(h_ended_at)s::float8[], %(h_project)s::text[],
    %(h_agent)s::text[], %(h_ended_by)s::text[], %(h_is_failed)s::boolean[], %(h_duration)s::float8[],
    %(h_turns)s::integer[], %(h_slowest)s::float8[], %(h_packed)b::bytea[]) AS r
  ON CONFLICT (id) DO NOTHING
)"""
REPLACE: Final[LiteralString] = """, other_series AS (
  DELETE FROM phonic_series s USING fence
  WHERE s.shard = fence.shard AND NOT EXISTS (
    SELECT FROM unnest(%(families)s::text[], %(labels)s::text[]) AS r (family, labels)
    WHERE r.family = s.family AND r.labels = s.labels)
), other_conversations AS (
  DELETE FROM phonic_conversation c USING fence
  WHERE c.shard = fence.shard AND NOT c.id = ANY(%(ids)s::text[]) AND NOT c.id = ANY(%(gone)s::text[])
)"""
NEWS_OF: Final[LiteralString] = f"""
SELECT s.is_drained, s.is_drained AND NOT {UNFINISHED},
  coalesce((
    SELECT json_agg(json_build_array(n.id, n.workspace, n.word)) FROM (
      SELECT a.id, a.workspace, a.word FROM phonic_assignment a
      WHERE a.shard = s.shard AND a.ended_at IS NULL AND NOT a.is_taken LIMIT {NEWS}
    ) n
  ), '[]')::text
FROM fence s
"""
READ_SERIES: Final[LiteralString] = (
    "SELECT family, key, labels, layout, numbers FROM phonic_series"
    f" WHERE shard = %s AND (family, key) > (%s, %s::bytea) ORDER BY family, key LIMIT {PAGE}"
)
READ_CONVERSATIONS: Final[LiteralString] = (
    "SELECT c.id, c.progress FROM phonic_conversation c WHERE c.shard = %s AND c.id > %s"
    " AND NOT EXISTS (SELECT FROM phonic_assignment a WHERE a.id = c.id AND a.ended_at IS NOT NULL)"
    f" ORDER BY c.id LIMIT {PAGE}"
)
"""Without those that are over: a write does not see the rows of an earlier one that was given up and committed
while it waited, so it may have left their progress."""
READ_ASSIGNED: Final[LiteralString] = (
    "SELECT id, workspace, word FROM phonic_assignment"
    f" WHERE shard = %s AND ended_at IS NULL AND id > %s ORDER BY id LIMIT {PAGE}"
)
EXPIRE_ENDS: Final[LiteralString] = f"""
WITH expired AS (
  DELETE FROM phonic_assignment WHERE id IN (
    SELECT id FROM phonic_assignment WHERE ended_at < clock_timestamp() - make_interval(secs => %(seconds)s)
    ORDER BY ended_at LIMIT {MOST_EXPIRED})
  RETURNING id
), progress AS (
  DELETE FROM phonic_conversation c USING expired WHERE c.id = expired.id
)
SELECT count(*) FROM expired
"""
"""Also progress that should have gone with the end, see `READ_CONVERSATIONS`."""
FORGET_HISTORY: Final[LiteralString] = f"""
WITH forgotten AS (
  DELETE FROM phonic_history WHERE id IN (
    (SELECT id FROM phonic_history WHERE ended_at < %(before)s ORDER BY ended_at LIMIT {MOST_EXPIRED})
    UNION (SELECT id FROM phonic_history ORDER BY ended_at DESC OFFSET %(most)s LIMIT {MOST_EXPIRED}))
  RETURNING id
)
SELECT count(*) FROM forgotten
"""
MATCHES: Final[LiteralString] = "concat_ws(E'\\n', id, project, agent, ended_by) ILIKE %(like)s"
COUNT_HISTORY: Final[LiteralString] = f"SELECT count(*) FROM phonic_history WHERE {MATCHES}"
LIST_HISTORY: Final[LiteralString] = (
    "SELECT id, ended_at, project, agent, ended_by, is_failed, duration, turns, slowest FROM phonic_history"
    f" WHERE {MATCHES} ORDER BY is_failed DESC, slowest DESC NULLS LAST, ended_at DESC LIMIT %(limit)s"
)

CREATE: Final[LiteralString] = (
    f"DO $do$ BEGIN IF to_regclass('phonic_schema') IS NULL THEN"
    f" {TABLES} INSERT INTO phonic_schema VALUES ({SCHEMA}); END IF; END $do$"
)
