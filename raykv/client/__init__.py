"""What users hold: ``Store`` and ``Bucket``, sync and async, and the codecs of values.

``operations`` says what every call sends and what it makes of the answers, as generators that do no input or output;
``memory`` holds the two numbers that a handle remembers from call to call;
``driver`` runs such a generator over a link, once blocking and once awaiting; ``store`` and ``aio`` are the typed faces,
``handle`` is what they have in common.
Nothing here imports Ray: the link to the coordinator is handed in.
"""
