"""The matched comparison: what is trained, what is recorded, and that the measures are of these."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tasks.errors import UserError
from tasks.icl import metrics
from tasks.icl.analysis import Reading, analyse, choose_rate
from tasks.icl.episodes import Episode
from tasks.icl.fewshot import Encoded
from tasks.icl.finetune import finetune, only
from tasks.icl.record import check_readable, padded, recording
from tasks.icl.untrained import untrained
from tests.zoo import schemes
from tests.zoo.schemes import D, H

BIASED = {"_target_": "zoo.mixers.softmax.SoftmaxAttention", "_partial_": True, "bias": True}
GROUPED = {**BIASED, "num_kv_heads": 2}


def network(name: str = "learned", mixer: dict | None = None):
    model = schemes.model(name, "causal", mixer=mixer or BIASED, context_length=64).double()
    return model


def example(question: list[int], gold: int) -> Encoded:
    return Encoded(question, [[9], [10], [11]], gold)


EPISODE = Episode(
    start=[0],
    separator=[12],
    demonstrations=[example([1, 2], 0), example([3], 1), example([4, 5, 6], 2)],
    queries=[example([2, 7], 0), example([8, 1, 3], 2), example([5], 1)],
)
OTHER = Episode([0], [12], [example([6, 3], 1), example([1], 0)], EPISODE.queries)


def test_prompts_of_an_episode():
    """The start, then each demonstration with its answer and separator; Kendall counts neither."""
    assert EPISODE.context == [0, 1, 2, 9, 12, 3, 10, 12, 4, 5, 6, 11, 12]
    assert EPISODE.training_texts() == [[0, 1, 2, 9], [0, 3, 10], [0, 4, 5, 6, 11]]
    counted = [EPISODE.context[i] for i in EPISODE.demonstration_places()]
    assert counted == [1, 2, 9, 3, 10, 4, 5, 6, 11]


@pytest.mark.parametrize("mixer", [BIASED, GROUPED], ids=["", "grouped"])
@pytest.mark.parametrize("loss_on", ["all", "answer"])
def test_fine_tuning_is_plain_sgd_on_keys_and_values(loss_on, mixer):
    """One step a demonstration, in order, on W_K, W_V and their biases, and on nothing else."""
    model, expected, lr = network(mixer=mixer), network(mixer=mixer), 0.1
    for question in EPISODE.demonstrations:
        ids = torch.tensor([0, *question.question, *question.answer])
        loss = cross_entropy(expected(ids[None])[0, :-1], ids[1:], reduction="none")
        loss = loss.mean() if loss_on == "all" else loss[-1]
        expected.zero_grad()
        loss.backward()
        with torch.no_grad():
            for block in expected.blocks:
                for p in (block.mixer.qkv.weight, block.mixer.qkv.bias):
                    p[H * D :] -= lr * p.grad[H * D :]
    before = {name: p.clone() for name, p in model.state_dict().items()}
    with only(model):
        finetune(model, EPISODE, lr=lr, loss_on=loss_on)
        after = {name: p.clone() for name, p in model.state_dict().items()}
    for name, p in expected.state_dict().items():
        torch.testing.assert_close(after[name], p.detach(), rtol=0, atol=1e-12)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("mixer.qkv" in name for name in moved) and len(moved) == 4
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items()), "put back"
    assert all(p.requires_grad for p in model.parameters())


def test_recorded_queries_are_those_before_each_step():
    model = network()
    with only(model):
        _, found = finetune(model, EPISODE, lr=0.5)
    assert found.shape == (9, 2, H * D)
    texts = [torch.tensor([text]) for text in EPISODE.training_texts()]
    with only(model), torch.no_grad():
        with recording(model, torch.tensor([3]), every_token=True) as first:
            model.hidden(texts[0])
        torch.testing.assert_close(found[:3], first.queries_BLC[0, :, 1:].transpose(0, 1))
        with recording(model, torch.tensor([4]), every_token=True) as last:
            model.hidden(texts[2])
    assert not torch.allclose(found[5:, 1], last.queries_BLC[0, 1, 1:]), "weights had moved"


@pytest.mark.parametrize("name", ["learned", "rope", "alibi"])
def test_recorded_is_what_attention_does(name):
    """After W_O with its bias and before the residual; scores before softmax and mask, without the
    scheme's bias; rows of unequal length."""
    model = network(name, GROUPED)
    rows = [[1, 2, 3, 4, 5, 6], [7, 8, 9]]
    tokens, last = padded(rows, torch.device("cpu"))
    with torch.no_grad(), recording(model, last) as found:
        model.hidden(tokens)
    for b, row in enumerate(rows):
        x, n = model.position.embed(model.embedding(torch.tensor([row]))), len(row)
        for layer, (block, position) in enumerate(model.layers()):
            inner = block.mixer_norm(x)
            out = block.mixer(inner, position, model.mask)[0, -1]
            torch.testing.assert_close(found.outputs_BLC[b, layer], out.float())
            scores = block.mixer.scores(inner, position, model.mask)[0, :, -1]
            if name == "alibi":
                scores = scores + position.slopes()[:, None] * torch.arange(n - 1, -1, -1)
            torch.testing.assert_close(found.scores_BLHT[b, layer, :, :n], scores.float())
            q = block.mixer.heads(inner)[0][0, :, -1].flatten() / D**0.5
            torch.testing.assert_close(found.queries_BLC[b, layer], q.float())
            x = block(x, position, model.mask)


def test_the_measures_are_of_these_recordings():
    """Every number again, query by query, with nothing batched."""
    model, lr = network(), 0.2
    found = analyse(model, [EPISODE, OTHER], lr=lr, reading=Reading(tokens_per_batch=1))
    numbers = found.numbers()
    parts: dict[str, list] = {name: [] for name in ("aou", "raw", "am", "before", "other", "tau")}
    for episode, other in ((EPISODE, OTHER), (OTHER, EPISODE)):
        plain = [read(model, episode.start, q) for q in episode.queries]
        shown = [read(model, episode.context, q) for q in episode.queries]
        elsewhere = [read(model, other.context, q) for q in episode.queries]
        with only(model):
            _, trained_on = finetune(model, episode, lr=lr)
            tuned = [read(model, episode.start, q) for q in episode.queries]
        for z, i, f, o in zip(plain, shown, tuned, elsewhere):
            a = {"zsl": z.outputs_BLC, "icl": i.outputs_BLC, "ft": f.outputs_BLC}
            parts["aou"].append(metrics.sim_aou(**a))
            parts["raw"].append(metrics.sim_aou(**a, normalised=False))
            parts["other"].append(metrics.sim_aou(**{**a, "icl": o.outputs_BLC}))
            own = f.scores_BLHT.shape[-1] - 1
            s = [r.scores_BLHT[..., -own:] for r in (z, i, f)]
            parts["am"].append(metrics.sim_am(icl=s[1], ft=s[2]))
            parts["before"].append(metrics.sim_am(icl=s[1], ft=s[0]))
            attended = i.scores_BLHT[..., episode.demonstration_places()].sum(2)
            ranked = torch.einsum("nlc,tlc->nlt", f.queries_BLC, trained_on)
            parts["tau"].append(metrics.kendall(icl=attended, ft=ranked))
    names = {"aou": "sim_aou", "raw": "sim_aou@raw", "other": "sim_aou@other", "am": "sim_am"}
    for part, name in {**names, "before": "sim_am@before", "tau": "kendall"}.items():
        curve = torch.stack(parts[part]).mean(0)
        assert found.curves()[name] == pytest.approx(curve.tolist(), abs=1e-5), name
        assert numbers[name] == pytest.approx(curve.mean().item(), abs=1e-5), name
    assert numbers["queries"] == 6 and numbers["shots"] == 2.5
    assert abs(numbers["sim_aou@random"]) < 0.5


def read(model, context, query):
    ids = torch.tensor([[*context, *query.question]])
    with torch.no_grad(), recording(model, torch.tensor([ids.shape[1] - 1])) as records:
        model.hidden(ids)
    return records


def test_the_released_position_is_the_first_label_behind_the_prompt():
    model = network()
    prompt = analyse(model, [EPISODE], lr=0.1).numbers()
    label = analyse(model, [EPISODE], lr=0.1, reading=Reading(at="label0")).numbers()
    assert label["acc@icl"] == prompt["acc@icl"] and label["sim_aou"] != prompt["sim_aou"]
    assert "sim_aou@other" not in prompt, "one episode has no other demonstrations"


def test_the_rate_is_the_best_on_the_dev_episodes():
    model = network()
    rate, found = choose_rate(model, [EPISODE, OTHER], [1e-12, 0.3, 1e-11])
    assert set(found) == {1e-12, 1e-11, 0.3} and found[1e-12] == found[1e-11]
    assert rate == (0.3 if found[0.3] > found[1e-12] else 1e-12), "the smallest of equals"
    still = analyse(model, [EPISODE], lr=1e-12).numbers()
    assert still["acc@ft"] == still["acc@zsl"] and still["rec2ftp_count"] == 0
    assert still["rec2ftp"] != still["rec2ftp"], "undefined, and said so"


def test_the_untrained_network_is_another_draw_of_the_same_shape():
    model = network()
    first, again, other = (untrained(model, seed=s) for s in (0, 0, 1))
    for name, p in first.state_dict().items():
        assert p.shape == model.state_dict()[name].shape
        assert torch.equal(p, again.state_dict()[name])
    assert not torch.equal(first.blocks[0].mixer.qkv.weight, other.blocks[0].mixer.qkv.weight)
    assert not torch.equal(first.embedding.weight, model.embedding.weight)


def test_a_mixer_without_heads_is_refused():
    class Blind(torch.nn.Module):
        pass

    model = network()
    model.blocks[0].mixer = Blind()
    with pytest.raises(UserError, match="Blind does not show queries"):
        check_readable(model)
