"""Typed edges: propagation against plain loops and PyG, vectors of a moment against sums by hand, what the graph may learn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch_geometric.nn import HeteroConv, LGConv

from recsys.data.splits import FIT, TEST, UNUSED
from recsys.door.tables import DataError
from recsys.embeddings.config import EdgesConfig, EmbedConfig
from recsys.embeddings.heterogeneous import (
    ALWAYS,
    FILE,
    TypedEdges,
    TypedGraph,
    neighbour_sums,
    read_graph,
    read_users,
    save_neighbours,
    users_of,
)
from recsys.embeddings.lightgcn import LightGCN, LightGCNConfig, message_scales, normalised_adjacency
from recsys.embeddings.user_vectors import HistoryVectors
from recsys.recommender import Request

U, ITEMS, A = 7, 9, 4  # users, items, attributes
N = U + ITEMS + A


def distinct(generator, first, second, count):
    pairs = np.stack([generator.integers(*first, count), generator.integers(*second, count)])
    return np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)


@pytest.fixture
def edges():
    """User–item pairs [2, E] (items from 0), and nodes of friends, users' tags and items' tags."""
    draw = np.random.default_rng(0)
    friends = np.unique(np.sort(distinct(draw, (0, U), (0, U), 12), axis=0), axis=1)
    tags = distinct(draw, (0, U), (U + ITEMS, N), 14)
    kinds = distinct(draw, (U, U + ITEMS), (U + ITEMS, N), 12)
    return distinct(draw, (0, U - 1), (20, 20 + ITEMS), 20) - np.array([[0], [20]]), friends, tags, kinds


def graph_of(edges, times=None, weights=(0.5, 2.0, 0.7)) -> TypedGraph:
    kinds = ("user_user", "user_attribute", "item_attribute")
    typed = []
    for kind, nodes, weight in zip(kinds, edges[1:], weights, strict=True):
        since = np.full(nodes.shape[1], ALWAYS)
        if times is not None and kind != "item_attribute":
            since = times[: nodes.shape[1]]
        typed.append(TypedEdges(kind, nodes, since, np.ones(nodes.shape[1], bool), weight))
    return TypedGraph(tuple(typed), U, ITEMS, A, ())


def model_of(edges, graph: TypedGraph, layers: int = 3) -> LightGCN:
    users, items = edges[0]
    adjacency = normalised_adjacency(users, items, U, ITEMS, None, graph.learned(), A)
    scales = message_scales(users, items, ITEMS, np.ones(len(users)))
    return LightGCN(adjacency, U, LightGCNConfig(dim=5, layers=layers), 0, scales, ITEMS)


def by_type(edges):
    return [edges[0] + np.array([[0], [U]]), *edges[1:]]


def test_propagation_equals_a_plain_loop_over_edges(edges):
    """Each type with its own degrees; the mean over three layers and the first."""
    graph = graph_of(edges)
    model = model_of(edges, graph)
    layer = model.embedding.detach().double().numpy()
    mean = layer / 4
    for _ in range(3):
        reached = np.zeros_like(layer)
        for weight, nodes in zip((1.0, 0.5, 2.0, 0.7), by_type(edges), strict=True):
            degree = np.bincount(nodes.reshape(-1), minlength=N)
            for a, b in nodes.T:
                reached[a] += weight * layer[b] / np.sqrt(degree[a] * degree[b])
                reached[b] += weight * layer[a] / np.sqrt(degree[a] * degree[b])
        layer = reached
        mean += layer / 4
    np.testing.assert_allclose(model().detach().numpy(), mean, rtol=1e-4, atol=1e-6)


def test_two_layers_and_their_gradient_equal_pygs_hetero_conv_of_lg_convs(edges):
    model = model_of(edges, graph_of(edges, weights=(1.0, 1.0, 1.0)), layers=2)
    names = [("node", name, "node") for name in ("has", "friend", "tag", "kind")]
    index = {
        name: torch.from_numpy(np.concatenate([nodes, nodes[::-1]], axis=1))
        for name, nodes in zip(names, by_type(edges), strict=True)
    }
    conv = HeteroConv({name: LGConv() for name in names}, aggr="sum")
    start = model.embedding.detach().clone().requires_grad_()
    first = conv({"node": start}, index)
    theirs = (start + first["node"] + conv(first, index)["node"]) / 3
    ours = model()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(model.embedding.grad, start.grad, rtol=1e-5, atol=1e-6)


def test_user_item_edges_alone_give_the_bytes_that_they_always_gave(edges):
    users, items = edges[0]
    plain, typed = (
        LightGCN(normalised_adjacency(users, items, U, ITEMS, *more), U, LightGCNConfig(dim=5), 0)
        for more in ((), (None, [], 0))
    )
    assert torch.equal(plain.adjacency.values(), typed.adjacency.values())
    assert torch.equal(plain.message_table(), typed.message_table())
    ones = message_scales(users, items, ITEMS, np.ones(len(users)))
    torch.testing.assert_close(typed._scales(), ones)  # what the typed graph uses is what the degrees tell


def test_a_vector_is_that_of_the_graph_for_a_user_without_a_row_of_their_own(edges):
    """History and neighbours of both types together, and the last user, who has no event, by neighbours alone."""
    graph = graph_of(edges)
    model = model_of(edges, graph)
    for user in (2, U - 1):
        with torch.no_grad():
            model.embedding[user] = 0
        history = edges[0][1][edges[0][0] == user]
        assert (len(history) == 0) == (user == U - 1)
        items = HistoryVectors(model.message_table().numpy(), None, "x")
        users = users_of(model, graph, items, "all")
        found, known = users.vectors([Request("r", user, 5, history, np.zeros(len(history), np.int64))])
        expected = model()[user].detach().numpy()
        assert known.all()
        np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), rtol=1e-4, atol=1e-6)


def test_neighbours_count_from_strictly_after_their_moment(edges):
    """Sums by a plain loop over edges, at every moment of every user."""
    times = np.random.default_rng(3).integers(10, 15, 40)
    graph = graph_of(edges, times)
    model = model_of(edges, graph, layers=2)
    users, moments, vectors = neighbour_sums(model, graph)
    start = model.embedding.detach()
    total = ((start + model.adjacency @ start) / 3).numpy()
    said = users_of(model, graph, HistoryVectors(np.zeros((ITEMS, 5)), None, "x"), "neighbours").said
    assert (np.diff(users) >= 0).all()
    for user in range(U):
        for moment in range(9, 17):
            expected = np.zeros(5)
            for some in graph.edges[:2]:
                degree = np.bincount(some.nodes.reshape(-1), minlength=N)
                near = [
                    (b if a == user else a)
                    for (a, b), time in zip(some.nodes.T, some.times, strict=True)
                    if user in ((a, b) if some.kind == "user_user" else (a,)) and time < moment
                ]
                for node in near:
                    expected += some.weight * total[node] / np.sqrt(degree[node] * len(near))
            found, known = said.vectors([Request("r", user, moment)])
            np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-6)
            assert known[0] == (np.abs(expected).sum() > 0)
    assert len(users) == len(moments) == len(vectors)


def data_of(users, items, times, roles, n_users=4, learned_until=None):
    """What `read_graph` asks of a Dataset."""
    return SimpleNamespace(
        user_numbers={f"u{number}": number for number in range(n_users)},
        catalogue=SimpleNamespace(item_ids=[f"i{number}" for number in range(3)]),
        n_users=n_users, n_items=3, users=np.array(users), items=np.array(items), times=np.array(times),
        roles=np.array(roles), learned_until=learned_until,
    )  # fmt: skip


@pytest.fixture
def data():
    """User 0: FIT at 10, test at 20. User 1: FIT alone. User 2: held out. User 3: no event."""
    return data_of([0, 0, 1, 2, 2], [0, 1, 0, 1, 2], [10, 20, 10, 5, 30], [FIT, TEST, FIT, UNUSED, TEST])


def friends(folder, rows, **more):
    path = folder / "friends.csv"
    path.write_text("who,whom,since\n" + "".join(f"{a},{b},{t}\n" for a, b, t in rows))
    return EdgesConfig(file=path, kind="user_user", from_column="who", to_column="whom", **more)


def test_the_graph_learns_edges_older_than_what_is_held_out(tmp_path, data):
    rows = [("u0", "u1", 15), ("u1", "u0", 25), ("u0", "u3", 20), ("u2", "u1", 4), ("u2", "u3", 5)]
    some = read_graph([friends(tmp_path, rows, moment="since")], data, "ordinal").edges[0]
    assert some.nodes.T.tolist() == [[0, 1], [0, 3], [1, 2], [2, 3]]  # each pair once, since its first row
    assert some.times.tolist() == [15, 20, 4, 5]
    assert some.learned.tolist() == [True, False, True, False]


def test_where_one_moment_ends_training_for_all_no_later_edge_is_learned(tmp_path):
    """Though neither has anything held out: users 0 and 1 have FIT events alone, and user 2 none."""
    roles = [FIT, FIT]
    rows = [("u0", "u1", 10), ("u0", "u2", 11), ("u1", "u2", 500)]
    for until, learned in ((None, [True, True, True]), (11, [True, False, False])):
        data = data_of([0, 1], [0, 1], [10, 10], roles, learned_until=until)
        some = read_graph([friends(tmp_path, rows, moment="since")], data, "ordinal").edges[0]
        assert some.learned.tolist() == learned


def test_undated_edges_are_always_there_and_unknown_ones_are_counted(tmp_path, data):
    rows = [("u0", "u1", ""), ("u1", "u1", ""), ("u9", "u1", "")]
    config = friends(tmp_path, rows, undated="always")
    graph = read_graph([config], data)
    assert graph.edges[0].nodes.T.tolist() == [[0, 1]]
    assert graph.edges[0].times.tolist() == [ALWAYS]
    assert graph.facts[0]["rows_of_unknown_ids"] == 1
    with pytest.raises(DataError, match=r"friends\.csv: no row of it is of ids .*'x'.*'u0'"):
        read_graph([friends(tmp_path, [("x", "y", "")], undated="always")], data)


def test_tags_of_people_and_of_items_share_nodes_where_they_share_a_vocabulary(tmp_path, data):
    (tmp_path / "tags.csv").write_text("user,tag,when\nu0,rock,3\nu1,jazz,4\n")
    (tmp_path / "kinds.csv").write_text("item,kind\ni0,jazz\ni2,rock\n")
    tags = EdgesConfig(file=tmp_path / "tags.csv", kind="user_attribute", from_column="user", to_column="tag",
                       moment="when")  # fmt: skip
    kinds = EdgesConfig(
        file=tmp_path / "kinds.csv", kind="item_attribute", from_column="item", to_column="kind"
    )
    graph = read_graph([tags, kinds], data, "ordinal")
    assert graph.n_others == 2
    assert [some.nodes.T.tolist() for some in graph.edges] == [[[0, 8], [1, 7]], [[4, 7], [6, 8]]]
    late = data_of([0, 1], [0, 0], [3, 9], [TEST, TEST])  # then jazz alone is learned, and rock is no node
    assert [some.nodes.T.tolist() for some in read_graph([tags], late, "ordinal").edges] == [[[1, 7]]]
    apart = read_graph([tags, kinds.model_copy(update={"vocabulary": "kinds"})], data, "ordinal")
    assert apart.n_others == 4


def test_what_neighbours_say_is_saved_and_read_as_it_was(edges, tmp_path):
    graph = graph_of(edges, np.arange(40))
    model = model_of(edges, graph)
    history = HistoryVectors(model.message_table().numpy(), 5, "x")
    save_neighbours(model, graph, tmp_path)
    asked = [Request(f"r{user}", user, 12, np.arange(3), np.zeros(3, np.int64)) for user in (0, 3, U - 1)]
    asked.append(Request("nobody", None, 12))
    for reads in ("all", "neighbours"):
        ours = users_of(model, graph, history, reads).vectors(asked)
        theirs = read_users(tmp_path / FILE, history, reads).vectors(asked)
        assert all((mine == other).all() for mine, other in zip(ours, theirs, strict=True))
        assert ours[1].tolist()[-1] is False
    assert read_users(tmp_path / FILE, history, None) is history


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "user_user"}, "need moment"),
        ({"kind": "user_attribute"}, "need moment"),
        ({"kind": "item_attribute", "moment": "since"}, "leave out moment"),
    ],
)
def test_edges_say_since_when(given, message):
    with pytest.raises(ValueError, match=message):
        EdgesConfig(file="x.csv", from_column="a", to_column="b", **given)


def test_settings_that_do_not_go_together():
    kinds = {"file": "x.csv", "kind": "item_attribute", "from_column": "a", "to_column": "b"}
    with pytest.raises(ValueError, match="user_reads: neighbours needs edges of users"):
        EmbedConfig(edges=[kinds], user_reads="neighbours")
    with pytest.raises(ValueError, match="edges are LightGCN's"):
        EmbedConfig(edges=[kinds], item_embeddings="v.parquet")
