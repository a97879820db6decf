import torch

from medmllm.models.tokens import Tokens


def test_features_of_a_whole_modality_are_one_real_token() -> None:
    features = torch.randn(3, 4)
    tokens = Tokens.of(features)
    assert torch.equal(tokens.values, features.reshape(3, 1, 4))
    assert tokens.real.tolist() == [[True]] * 3
    places = torch.randn(3, 5, 4)
    assert Tokens.of(places).values is places
    assert Tokens.of(places).real.shape == (3, 5)


def test_the_mean_is_that_of_what_is_real_and_nothing_where_nothing_is() -> None:
    values = torch.arange(12.0).reshape(2, 3, 2)
    tokens = Tokens(values, torch.tensor([[True, False, True], [True, True, True]]))
    assert tokens.mean().tolist() == [[2.0, 3.0], [8.0, 9.0]]
    gone = tokens.where(torch.tensor([True, False]))
    assert gone.real.tolist() == [[True, False, True], [False, False, False]]
    assert gone.mean().tolist() == [[2.0, 3.0], [0.0, 0.0]]


def test_the_learned_token_stands_alone_where_a_modality_is_missing_or_empty() -> None:
    values, missing = torch.arange(18.0).reshape(3, 3, 2), torch.tensor([7.0, -7.0])
    real = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    found = Tokens(values, real).or_missing(torch.tensor([True, False, True]), missing)
    assert found.real.tolist() == [[True, True, False], [True, False, False], [True, False, False]]
    assert torch.equal(found.values[0], values[0])
    assert found.values[1, 0].tolist() == found.values[2, 0].tolist() == [7.0, -7.0]
