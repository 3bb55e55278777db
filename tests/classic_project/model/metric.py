import torch


def hit_rate(output, target):
    with torch.no_grad():
        assert output.shape[0] == len(target)
        right = torch.sum((output > 0).float() == target).item()
    return right / len(target)


def confident_rate(output, target):
    with torch.no_grad():
        return torch.mean((output.abs() > 1).float())
