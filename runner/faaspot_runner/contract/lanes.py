"""How wake-ups take turns: a lane for each deployment in front of each queue, and a bounded number of turns at once.

A queue is RQ's list, from which workers take; every id in it runs next. What is still to wait stands in its
deployment's *lane*. When it gets a *turn* it is moved from there into the queue, and the turn ends with its run. A
deployment gets another turn in a queue

* while it has fewer, in all queues, than its `concurrency` allows, and
* while it has fewer than `SHARE` times as many as are free, or none at all.

So ten thousand runs of one deployment never have all turns, each deployment has always one that runs or is next, and
where many want all they can get, they get the same. Of a deployment's lanes that of sync runs goes first.

All of it is Lua, one step each, since both halves of the platform and many processes take part. Turns of workers that
were killed come back with their leases (`TEND`). The keys::

    faaspot:lane:QUEUE:LANE   list of the job ids that wait
    faaspot:lanes:QUEUE       hash: lane -> how many turns it has; as long as it has any, or something waits in it
    faaspot:turns:QUEUE       hash: job id -> lane, of what is in the queue or runs
    faaspot:workers:QUEUE     sorted set: "WORKER THREADS" -> until when that counts (milliseconds)
    faaspot:capacity:QUEUE    how many turns there are: the threads of all workers
    faaspot:concurrency       hash: lane -> how many runs it may have at once; those with a limit
"""

from __future__ import annotations

from faaspot_runner.contract import LEASE_DONE, PREFIX

SHARE = 3
"""A deployment alone gets three quarters of the turns."""
WORKER_SECONDS = 15.0
"""For how long a worker's threads count after it last told of them."""
TEND_SECONDS = 4.0
"""However many workers there are: what they all share is looked after once in this time."""


def lanes_key(queue: str) -> str:
    """Hash of the lanes that have something, see the module."""
    return f"{PREFIX}lanes:{queue}"


def lane_key(queue: str, lane: str) -> str:
    """List of the job ids that wait for their turn."""
    return f"{PREFIX}lane:{queue}:{lane}"


def workers_key(queue: str) -> str:
    """Sorted set of the workers whose threads count."""
    return f"{PREFIX}workers:{queue}"


FUNCTIONS = """
local function lanes_of(queue) return '@lanes:' .. queue end
local function turns_of(queue) return '@turns:' .. queue end
local function waiting_in(queue, lane) return '@lane:' .. queue .. ':' .. lane end

local function held(queue, lane) return tonumber(redis.call('HGET', lanes_of(queue), lane) or 0) end

local function may_have_another(queue, lane)
  local has, most = held(queue, lane), redis.call('HGET', '@concurrency', lane)
  if most and queue ~= 'builds' and held('sync', lane) + held('background', lane) >= tonumber(most) then
    return false
  end
  local free = tonumber(redis.call('GET', '@capacity:' .. queue) or 0) - redis.call('HLEN', turns_of(queue))
  return has == 0 or has < @share * free
end

local function advance_in(queue, lane)
  local line = waiting_in(queue, lane)
  if redis.call('EXISTS', line) == 1 then
    while may_have_another(queue, lane) do
      local id = redis.call('LPOP', line)
      if not id then break end
      redis.call('HSET', turns_of(queue), id, lane)
      redis.call('HINCRBY', lanes_of(queue), lane, 1)
      redis.call('RPUSH', 'rq:queue:' .. queue, id)
    end
  end
  if held(queue, lane) <= 0 and redis.call('EXISTS', line) == 0 then redis.call('HDEL', lanes_of(queue), lane) end
end

local function advance(queue, lane)
  if queue == 'builds' then return advance_in(queue, lane) end
  advance_in('sync', lane)
  advance_in('background', lane)
end

local function end_turn(queue, id)
  local lane = redis.call('HGET', turns_of(queue), id)
  if not lane then return end
  redis.call('HDEL', turns_of(queue), id)
  redis.call('HINCRBY', lanes_of(queue), lane, -1)
  advance(queue, lane)
end
""".replace("@share", str(SHARE)).replace("@", PREFIX)
"""Lua functions, to stand before a script that uses them."""

ENQUEUE = (
    FUNCTIONS
    + """
local queue, lane, most, moment, kind = unpack(ARGV, 1, 5)
redis.call('SADD', 'rq:queues', 'rq:queue:' .. queue)
if kind == 'run' then
  if most == '' then redis.call('HDEL', '@concurrency', lane) else redis.call('HSET', '@concurrency', lane, most) end
end
redis.call('HINCRBY', lanes_of(queue), lane, 0)
for at = 6, #ARGV, 3 do
  local id, token, data = unpack(ARGV, at, at + 2)
  local fresh = redis.call('HSET', 'rq:job:' .. id, 'data', data, 'created_at', moment, 'enqueued_at', moment,
    'origin', queue, 'description', kind, 'timeout', -1, 'result_ttl', 0, 'failure_ttl', 0, 'status', 'queued',
    'token', token)
  local called = redis.call('HEXISTS', turns_of(queue), id) == 1
  local line = called and 'rq:queue:' .. queue or waiting_in(queue, lane)
  if fresh > 0 or not redis.call('LPOS', line, id) then redis.call('RPUSH', line, id) end
end
advance(queue, lane)
""".replace("@", PREFIX)
)
"""Save jobs as RQ would and put them in line; one that is there already is not put there again.

ARGV: queue, lane, its `concurrency` or "", RQ's text of this moment, kind; then of each job id, token and data. `token`
stands beside a job's own fields, so that a worker's claim and its look at the job are one step.
"""

END_TURNS = (
    FUNCTIONS
    + """
for at = 2, #ARGV do end_turn(ARGV[1], ARGV[at]) end
"""
)
"""End the turns of these. ARGV: queue, job ids."""

TEND = (
    FUNCTIONS
    + """
local queue, worker, threads, lasts, every = unpack(ARGV, 1, 5)
local seconds, micros = unpack(redis.call('TIME'))
local now = seconds * 1000 + math.floor(micros / 1000)
redis.call('ZADD', '@workers:' .. queue, now + lasts, worker .. ' ' .. threads)
redis.call('ZREMRANGEBYSCORE', '@workers:' .. queue, '-inf', now)
local capacity = 0
for _, told in ipairs(redis.call('ZRANGE', '@workers:' .. queue, 0, -1)) do
  capacity = capacity + tonumber(told:match(' (%d+)$'))
end
redis.call('SET', '@capacity:' .. queue, capacity)
if not redis.call('SET', '@tended:' .. queue, worker, 'NX', 'PX', every) then return 0 end
local standing = {}
for _, line in ipairs({'rq:queue:' .. queue, 'rq:queue:' .. queue .. ':intermediate'}) do
  for _, id in ipairs(redis.call('LRANGE', line, 0, -1)) do standing[id] = true end
end
local lost, turns = 0, redis.call('HGETALL', turns_of(queue))
for at = 1, #turns, 2 do
  local id = turns[at]
  if not standing[id] then
    local execution, attempt = id:match('^(.*)-(%d+)$')
    local lease = execution and redis.call('GET', '@lease:' .. execution .. ':' .. attempt)
    if not lease or lease == '@done' then
      lost = lost + 1
      end_turn(queue, id)
    end
  end
end
for _, lane in ipairs(redis.call('HKEYS', lanes_of(queue))) do advance(queue, lane) end
return lost
""".replace("@done", LEASE_DONE).replace("@", PREFIX)
)
"""Tell how many threads a worker has, end the turns of what nobody has any more, and move up what may run.

ARGV: queue, worker, threads, milliseconds for which that counts, and in which the rest is done once. How many turns
were ended.
"""
