"""Scripts by which the API's side puts wake-ups in line, and has those go on whose turn it is (`contract.lanes`)."""

from __future__ import annotations

from collections.abc import Iterable

from faaspot_api.queue.base import SpotSeen
from faaspot_runner.contract import LEASE_DONE, PREFIX, QUEUES
from faaspot_runner.contract.lanes import GIVING, OVER
from faaspot_runner.contract.spots import own_line

MOST_ROOM = 65_536
"""Of one spot in one queue: 64 workers of 1024 threads."""

SETTLE = (
    GIVING
    + """
local function settle()
  while true do
    local told = redis.call('LPOP', '@over')
    if not told then return end
    local queue, id = told:match('^(%S+) (.*)$')
    if queue then end_turn(queue, id) end
  end
end
settle()
""".replace("@over", OVER)
)
"""End the turns that spots on other hosts have told of."""

ENQUEUE = (
    SETTLE
    + """
local line, lane, most, moment, kind = unpack(ARGV, 1, 5)
local queue = queue_of(line)
redis.call('SADD', 'rq:queues', 'rq:queue:' .. line)
if line ~= queue then redis.call('SADD', '~owners', line:sub(#queue + 2)) end
if kind == 'run' then
  if most == '' then redis.call('HDEL', '~concurrency', lane) else redis.call('HSET', '~concurrency', lane, most) end
end
redis.call('HINCRBY', lanes_of(line), lane, 0)
for at = 6, #ARGV, 3 do
  local id, token, data = unpack(ARGV, at, at + 2)
  local fresh = redis.call('HSET', 'rq:job:' .. id, 'data', data, 'created_at', moment, 'enqueued_at', moment,
    'origin', line, 'description', kind, 'timeout', -1, 'result_ttl', 0, 'failure_ttl', 0, 'status', 'queued',
    'token', token)
  local turn = redis.call('HGET', turns_of(queue), id)
  if turn and turn ~= line .. ' ' .. lane then
    redis.call('LREM', 'rq:queue:' .. turn:match('^%S+'), 1, id)
    end_turn(queue, id)
    turn = false
  end
  local standing = turn and 'rq:queue:' .. line or waiting_in(line, lane)
  if fresh > 0 or not redis.call('LPOS', standing, id) then redis.call('RPUSH', standing, id) end
end
advance(queue, lane)
forget(line, lane)
""".replace("'~", f"'{PREFIX}")
)
"""Save jobs as RQ would and put them in line; one that is there already is not put there again, and one that stands in
another line leaves it.

ARGV: line, lane, its `concurrency` or "", RQ's text of this moment, kind; then of each job id, token and data. `token`
stands beside a job's own fields, so that a worker's claim and its look at the job are one step.
"""

TEND = (
    SETTLE
    + """
local function standing_in(lines)
  local standing = {}
  for _, line in ipairs(lines) do
    for _, key in ipairs({'rq:queue:' .. line, 'rq:queue:' .. line .. ':intermediate'}) do
      for _, id in ipairs(redis.call('LRANGE', key, 0, -1)) do standing[id] = true end
    end
  end
  return standing
end

local function is_lost(id)
  local execution, attempt = id:match('^(.*)-(%d+)$')
  local lease = execution and redis.call('GET', '~lease:' .. execution .. ':' .. attempt)
  return not lease or lease == '@done'
end

redis.call('DEL', '~capacity', '~waiting')
for at = 1, #ARGV, 2 do redis.call('HSET', '~capacity', ARGV[at], ARGV[at + 1]) end
local lost = 0
for _, queue in ipairs({@queues}) do
  local lines = lines_of(queue)
  local standing = standing_in(lines)
  for _, id in ipairs(redis.call('HKEYS', turns_of(queue))) do
    if not standing[id] and is_lost(id) then
      lost = lost + 1
      end_turn(queue, id)
    end
  end
  for _, line in ipairs(lines) do
    for _, lane in ipairs(redis.call('HKEYS', lanes_of(line))) do
      advance_in(line, lane)
      forget(line, lane)
      local waiting = is_limited(line, lane) and 0 or redis.call('LLEN', waiting_in(line, lane))
      if waiting > 0 then redis.call('HINCRBY', '~waiting', line, waiting) end
    end
  end
end
return lost
""".replace("@done", LEASE_DONE)
    .replace("@queues", ", ".join(f"'{queue}'" for queue in QUEUES))
    .replace("'~", f"'{PREFIX}")
)
"""Say how many turns there are, end those of what nobody has any more, and move up what may run; how many were ended.

ARGV: places and their turns.
"""

STRAND = (
    GIVING
    + """
local ip, found, left = ARGV[1], {}, 0
for _, queue in ipairs({@queues}) do
  local line = queue .. '@' .. ip
  local lanes = redis.call('HKEYS', lanes_of(line))
  local keys = {'rq:queue:' .. line .. ':intermediate', 'rq:queue:' .. line}
  for _, lane in ipairs(lanes) do table.insert(keys, waiting_in(line, lane)) end
  local here = {}
  for _, key in ipairs(keys) do
    for _, id in ipairs(redis.call('LRANGE', key, 0, -1)) do table.insert(here, id) end
    redis.call('DEL', key)
  end
  for _, id in ipairs(here) do
    end_turn(queue, id)
    table.insert(found, id)
  end
  for _, lane in ipairs(lanes) do forget(line, lane) end
  left = left + redis.call('HLEN', turns_of(line))
end
if left == 0 then redis.call('SREM', '~owners', ip) end
return found
""".replace("@queues", ", ".join(f"'{queue}'" for queue in QUEUES)).replace("'~", f"'{PREFIX}")
)
"""Empty the own lines of the spot at this address, lanes and all; the ids. ARGV: address."""


def capacities(spots: Iterable[SpotSeen]) -> dict[str, int]:
    """How many turns there are in each queue and each own line. A spot that takes no work has none."""
    found: dict[str, int] = {}
    for info in (seen.info for seen in spots if seen.is_online):
        for queue in QUEUES:
            room = max(0, min(MOST_ROOM, info.rooms.get(queue, 0)))
            found[own_line(queue, info.ip)] = room
            found[queue] = found.get(queue, 0) + room
    return found
