"""What users hold: ``Store`` and ``Bucket``, blocking and awaitable.

Read in this order:

* ``codecs``: a value as bytes and back. ``arrays``, ``arrow``, ``dataframes``: those of numpy, Arrow and pandas, without
  pickle; imported with the first of them. ``given``: what callers hand in.
* ``exchange``: what an operation is: a generator that yields requests and receives answers, with no input or output.
* ``requests``: an operation's arguments, checked and encoded. ``session_clock``: the two numbers that a session remembers.
* ``reads``, ``writes``, ``batches``, ``scans`` (with ``paging``; ``splits`` for scans in parallel): the operations on a
  bucket; ``operations`` joins them and adds ``modify``. ``administration`` and ``elastic``: what is asked of the store
  itself; ``repairs`` and ``views``: how the answers print. ``plain_calls``: answers to those who call the coordinator's
  actor themselves.
* ``atomic``: the changes of a linearizable bucket, each under a lane and a number (``lanes``); ``version`` names what one
  wrote. ``combining``: updates of one key by many tasks, carried out together. ``counters`` and ``locks`` are made of
  changes, with a face each (``aio_primitives``, ``primitives``); ``renewals`` renews a lock in the background.
* ``shards``: what has become of the jobs of a queue, pure; ``queue_books``, ``queue_puts``, ``queue_names``, ``queues``: its
  steps, with the faces ``aio_queue`` and ``task_queue`` (``awaiting_queue``, ``blocking_queue``: what these do not share).
* ``driver``: runs an operation over a ``Link`` to the coordinator, blocking or awaiting.
* ``handle``: the session that handles share, and what all handles are.
* ``aio``: **the source of both faces**; ``store`` is generated from it by ``scripts/generate_faces``. ``awaiting`` and
  ``blocking`` hold what the faces do not share.

A new method is an operation (in ``reads``, ``writes``, ... or ``administration``) and a method in ``aio``; the blocking form
follows. Nothing here imports Ray: the link is handed in.

Left out: caches of values, and retries of writes that may have been carried out (P8): the error says so, and the caller
knows whether writing twice does harm. Changes of linearizable buckets are sent again: they are carried out once (L10).
"""
