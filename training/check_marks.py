"""Is the loss of the marks what load.py and model.py say? Its gradient, place by place, against the explicit formula,
without a prior and with one; the teacher's score of a sentence likewise. Exits 1 where they differ.
"""
import math
import sys
import types

import torch

from model import mark_loss
from teacher import Encoder

OPEN, NONE = 0, 1


def gradient(labels, kinds, shares, nones, taught, prior=None):
    """The loss of each row and its derivative by every sentence's mark, all marks 0.5, 1.5, 2.5, …"""
    rows, width = labels.shape
    scores = (torch.arange(rows * width, dtype=torch.float32) % width + 0.5).view(rows, width).requires_grad_(True)
    model = types.SimpleNamespace(embed=torch.tensor([[1.0], [0.0]]))  # a score is then the hidden value itself
    places = torch.arange(rows * width).view(rows, width)
    loss, has = mark_loss(model, scores.view(-1, 1), places, labels, kinds, (OPEN, NONE), shares, nones, taught,
                          prior)
    loss.sum().backward()
    return loss.detach(), has, scores.detach(), scores.grad


def check(name, got, wanted):
    if torch.allclose(got, wanted, atol=1e-5):
        return 0
    print("%s: %s, not %s" % (name, got.tolist(), wanted.tolist()))
    return 1


def main():
    wrong = 0
    labels = torch.tensor([[0, 1, 0, -1], [0, 0, 0, 0], [0, 1, 0, -1], [-1, -1, -1, -1], [0, 1, 0, -1]], dtype=torch.int8)
    kinds = torch.tensor([1, 1, 1, 0, 0], dtype=torch.int8)
    shares = torch.tensor([[-1., -1, -1, -1], [-1, -1, -1, -1], [.1, .5, .2, -1], [.1, .2, .3, .2], [-1, -1, -1, -1]])
    nones = torch.tensor([-1., -1, .2, .2, -1])
    loss, has, scores, grad = gradient(labels, kinds, shares, nones, 0.6)
    known = torch.tensor([True, True, True, False])
    p = torch.softmax(torch.cat((scores[0][known], torch.zeros(1))), 0)[:3]
    hard = torch.zeros(4)
    hard[:3] = p - torch.tensor([0., 1, 0])
    wrong += check("one sentence is right", grad[0], hard)
    p_all = torch.softmax(torch.cat((scores[1], torch.zeros(1))), 0)[:4]
    wrong += check("nothing is right", grad[1], p_all)
    soft = torch.zeros(4)
    soft[:3] = p - torch.tensor([.1, .5, .2])
    wrong += check("both", grad[2], 0.6 * soft + 0.4 * hard)
    wrong += check("the teacher alone", grad[3], torch.softmax(torch.cat((scores[3], torch.zeros(1))), 0)[:4] - shares[3])
    wrong += check("no lesson", grad[4], torch.zeros(4))
    wrong += check("rows with a lesson", has.float(), torch.tensor([1., 1, 1, 1, 0]))
    wrong += check("loss without a lesson", loss[4], torch.tensor(0.))

    prior = torch.tensor([[2., -3, 1, 0], [-1, -2, 4, -9], [-6, .5, 2, 0], [-1, -1, -1, -3], [1, 1, 1, 1]])
    loss, has, marks, grad = gradient(labels, kinds, shares, nones, 0.6, prior)
    odds = [[math.exp(float(marks[row][s] + prior[row][s])) for s in range(4)] for row in range(4)]
    p = torch.tensor(odds[0][:3]) / (1 + sum(odds[0][:3]))
    wrong += check("prior, one sentence is right", grad[0][:3], p - torch.tensor([0., 1, 0]))
    wrong += check("prior, the loss then", loss[0], -p[1].log())
    p = torch.tensor(odds[1]) / (1 + sum(odds[1]))
    wrong += check("prior, nothing is right", grad[1], p)
    wrong += check("prior, the loss then", loss[1], torch.tensor(math.log(1 + sum(odds[1]))))
    p = torch.tensor([*odds[2][:3], 1.]) / (1 + sum(odds[2][:3]))
    wrong += check("prior, both", grad[2][:3], p[:3] - 0.6 * shares[2][:3] - 0.4 * torch.tensor([0., 1, 0]))
    soft = -(torch.tensor([.1, .5, .2, .2]) * p.log()).sum()
    wrong += check("prior, the loss then", loss[2], 0.6 * soft - 0.4 * p[1].log())
    p = torch.tensor(odds[3]) / (1 + sum(odds[3]))
    wrong += check("prior, the teacher alone", grad[3], p - shares[3])
    wrong += check("prior, no lesson", grad[4], torch.zeros(4))

    torch.manual_seed(1)
    encoder = Encoder(dict(num_attention_heads=2, layer_norm_eps=1e-12, hidden_size=16, vocab_size=50,
                           max_position_embeddings=32, type_vocab_size=2, intermediate_size=32, num_hidden_layers=2)).eval()
    ids = torch.randint(5, 50, (2, 12))
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, 9:] = False
    sentence = torch.tensor([[3, 3, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3], [3, 3, 0, 0, 0, 0, 2, 2, 3, 3, 3, 3]])
    kinds = (sentence < 3).long()
    with torch.no_grad():
        got = encoder.sentences(ids, kinds, real, sentence, 3)
        token = encoder.score(encoder(ids, kinds, real)).squeeze(-1)
        for row in range(2):
            for s in range(3):
                if not (sentence[row] == s).any():
                    wrong += float(got[row, s]) > -50
                    continue
                wanted = torch.logsumexp(token[row][sentence[row] == s], 0)
                wrong += check("sentence %d of row %d" % (s, row), got[row, s], wanted)
        ids[1, 9:] = 7  # what is not real is not read
        wrong += check("padding", encoder.sentences(ids, kinds, real, sentence, 3)[1, :1], got[1, :1])
    print("marks: %d wrong" % wrong)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
