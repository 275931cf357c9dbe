"""A node carries an explained request out as it would alone, and says what it looked into."""

from __future__ import annotations

from world import Cluster, put_record, run

from raykv.protocol import frames as f
from raykv.records.keys import encode_key

A = encode_key("a")


async def explained(cluster, body, node_id="n1", epoch=0):
    inner = f.node_requests.encode(f.NodeRequest(0, body, None, epoch))
    answer = await cluster.ask(node_id, f.ExplainRequest(inner))
    assert isinstance(answer, f.RequestExplained), answer
    return f.node_answers.decode(answer.frame).body, answer.figures


def test_a_write_waits_for_the_log_and_a_read_says_where_it_found_it():
    async def story():
        cluster = Cluster(1, copies=1, durability="always").start()
        body, figures = await explained(cluster, f.Write(1, [(A, put_record("v"))]))
        assert body == f.WriteDone([0])
        assert figures["waited_us"] > 0
        assert [look["found"] for look in figures["looks"][0]] == [False]
        body, figures = await explained(cluster, f.Read(1, [A]))
        assert isinstance(body, f.ReadDone)
        assert body.records[0] is not None
        ((look,),) = figures["looks"]
        assert (look["source"], look["found"]) == ("memtable", True)
        assert figures["omitted"] == 0

    run(story())


def test_many_keys_are_explained_up_to_a_bound():
    async def story():
        cluster = Cluster(1, copies=1).start()
        body, figures = await explained(cluster, f.Read(1, [encode_key(f"k{number}") for number in range(20)]))
        assert len(body.records) == 20
        assert (len(figures["looks"]), figures["omitted"]) == (16, 4)

    run(story())


def test_what_is_checked_of_a_request_is_checked_of_one_that_is_explained():
    async def story():
        cluster = Cluster(1, copies=1).start()
        nested = f.node_requests.encode(f.NodeRequest(0, f.ExplainRequest(b"x")))
        for frame in (b"", b"rubbish", nested):
            answer = await cluster.ask("n1", f.ExplainRequest(frame))
            assert isinstance(answer, f.NodeRefused)
            assert answer.reason == "corrupt"
        await cluster.give("n1", "a", put_record("v"))
        body, figures = await explained(cluster, f.Read(1, [A]), epoch=99)
        assert isinstance(body, f.NodeRefused), "it does not know that ring"
        assert figures["looks"] == [], "whether it has the key"
        body, figures = await explained(cluster, f.Scan(1, b"", b"\xff", 5, False, False, [10_000]))
        assert isinstance(body, f.NodeRefused)
        assert figures["looks"] == []

    run(story())
