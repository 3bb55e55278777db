"""Images that travel as bytes: what becomes of each is that of its place, wherever it is done."""

import copy
import io
import re
import traceback

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset, Subset

import ranks
import tiny
from base import BaseModel
from data_loader.data_loaders import DigitsDataLoader, ImageLoader
from exact import furthest
from machinery.arriving import is_under_way, on_host as arrived, to_device
from machinery.errors import ConfigError, DataError
from machinery.order import seeding
from machinery.update.runtime import unwrap
from model.metric import accuracy, top_k_acc
from tiny import interrupted
from utils import DatasetMaker
from utils.augmentation import Augmentation, Boxes, beta
from utils.images import Finish, pixels_of

META = torch.device("meta")
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
ALL = {"crop": 2, "flip": 0.5, "colour": 0.4, "erase": 0.5}
SIZE = (3, 9, 7)


class Pictures(Dataset):
    """Coloured noise; higher than wide, so that nothing is turned by mistake."""

    classes = ("a", "b", "c")

    def __init__(self, n=41, broken=()):
        self.pixels = np.random.RandomState(0).randint(0, 256, (n, 9, 7, 3), dtype=np.uint8)
        self.broken = broken

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        if i in self.broken:
            raise OSError("torn")
        return Image.fromarray(self.pixels[i]), i % 3


class Named(Pictures):
    """Targets that have names."""

    def __getitem__(self, i):
        return super().__getitem__(i)[0], {"class": i % 3}


BY_LENGTH = {"batch_by": "length", "lengths": "w"}


class Small(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


Small.__module__ = "tiny"
tiny.Small = Small
tiny.ImageLoader = ImageLoader
tiny.soft_cross_entropy = nn.functional.cross_entropy


def loader(dataset=None, **options):
    if dataset is None:
        dataset = Pictures()
    maker = DatasetMaker(lambda sections: dataset, ("args", "test_args"), "dataset", "x")
    return ImageLoader(maker, MEAN, STD, **{"batch_size": 8, **options})


def gathered(batches):
    images, targets = zip(*batches)
    return torch.cat(images), torch.cat(targets)


def by_hand(finish, sample, amounts):
    """What becomes of one image, with NumPy, in float64."""
    asked = finish.augmentation
    image = np.asarray(sample).astype(np.float64)
    height, width, _ = image.shape
    (down, right, flip, brightness, contrast, saturation, *erase) = amounts.double().tolist()
    if asked.crop:
        padded = np.pad(image, [(asked.crop, asked.crop)] * 2 + [(0, 0)], mode="reflect")
        top, left = (int(each * (2 * asked.crop + 1)) for each in (down, right))
        image = padded[top : top + height, left : left + width]
    if flip < asked.flip:
        image = image[:, ::-1]
    grey = np.array([0.299, 0.587, 0.114])
    if asked.colour:
        image = image * (1 + asked.colour * (2 * brightness - 1))
        mean = (image @ grey).mean()
        image = mean + (image - mean) * (1 + asked.colour * (2 * contrast - 1))
        greys = (image @ grey)[..., None]
        image = greys + (image - greys) * (1 + asked.colour * (2 * saturation - 1))
        image = image.clip(0, 255)
    result = (image / 255 - MEAN) / STD
    if erase[0] < asked.erase:
        area = height * width * (0.02 + erase[1] * 0.31)
        aspect = np.exp(np.log(0.3) + erase[2] * (np.log(3.3) - np.log(0.3)))
        tall = int(np.clip(np.round(np.sqrt(area * aspect)), 1, height))
        broad = int(np.clip(np.round(np.sqrt(area / aspect)), 1, width))
        top, left = int(erase[3] * (height - tall + 1)), int(erase[4] * (width - broad + 1))
        result[top : top + tall, left : left + broad] = 0
    return result.transpose(2, 0, 1)


@pytest.mark.parametrize("asked", [{name: value} for name, value in ALL.items()] + [ALL])
def test_each_is_what_it_is_by_hand(asked):
    pictures = Pictures(20)
    finish = Finish(MEAN, STD, Augmentation(**asked))
    with seeding.Rows(3, "train", 1, 5):
        pixels, target = finish([pictures[i] for i in range(20)])
    assert pixels.images.dtype == torch.uint8 and target.tolist() == [i % 3 for i in range(20)]
    with seeding.Rows(3, "train", 1, 5):
        amounts = seeding.uniform_rows(20, 15)
    there = pixels.on_device(torch.device("cpu"))
    changed = 0
    plain = finish.evaluation_view()([pictures[i] for i in range(20)])[0]
    for i, image in enumerate(there):
        expected = by_hand(finish, pictures[i][0], amounts[i])
        np.testing.assert_allclose(image.numpy(), expected, atol=1e-4)
        changed += not torch.equal(image, plain.on_device(torch.device("cpu"))[i])
    assert 5 <= changed <= 20 and there.shape == (20, *SIZE)


@pytest.mark.parametrize("way", [{}, {"num_workers": 2}, {"in_memory": True}, {"batch_size": 3}])
def test_they_are_the_same_however_they_are_made(way):
    torch.manual_seed(1)  # of which nothing depends
    images, targets = gathered(loader(**ALL).batches(2) | on_host)
    other, others = gathered(loader(**{**ALL, **way}).batches(2) | on_host)
    assert torch.equal(images, other) and torch.equal(targets, others)
    bare = loader(**{**ALL, **way})
    bare.epoch = 2
    again, _ = gathered(bare)  # a loop of one's own gets what a network takes
    assert torch.equal(images, again) and images.is_floating_point()


class OnHost:
    def __ror__(self, batches):
        return [to_device(batch, torch.device("cpu")) for batch in batches]


on_host = OnHost()


@pytest.mark.parametrize("options", [{"weights": "balanced"}, {"weights": "w"}, BY_LENGTH])
def test_what_a_dataset_says_of_its_samples_counts_in_memory_too(options):
    pictures = Pictures()
    pictures.targets = [i % 3 for i in range(41)]
    pictures.w = [i % 5 for i in range(41)]
    subset = Subset(pictures, range(2, 39))
    for dataset in (pictures, subset):
        found, classes = gathered(loader(dataset, in_memory=True, **options))
        images, targets = gathered(loader(dataset, **options))
        assert torch.equal(found, images) and torch.equal(classes, targets)


@pytest.mark.parametrize(
    "dataset, options, told",
    [
        (Pictures(broken=[11]), {}, "torn.*in sample 11"),
        (Pictures(0), {}, "the dataset is empty: Pictures has no samples"),
        (Named(), {}, "in_memory keeps targets that are numbers, found a dict of each batch"),
        (tiny.Stream(9), {}, "in_memory and device_resident are not for iterable data"),
        (Pictures(), {"skip_unreadable": True}, "skip_unreadable has no effect beside in_memory"),
    ],
)
def test_what_cannot_be_kept_in_memory_is_told(dataset, options, told):
    with pytest.raises((ConfigError, DataError, OSError)) as raised:
        loader(dataset, in_memory=True, **options)
    shown = "".join(traceback.format_exception_only(raised.value)).replace("\n", " ")
    assert re.search(told, shown)


def test_no_workers_where_images_are_on_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: META)
    for make in (DigitsDataLoader, loader):
        with pytest.raises(ConfigError, match=r"device_resident: .* set num_workers to 0"):
            make(device_resident=True, num_workers=1)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert loader(device_resident=True, num_workers=1).num_workers == 1


def test_only_training_images_are_augmented():
    pictures = Pictures()
    train = loader(pictures, validation_split=0.3, mixup=0.5, **ALL)
    plain = Finish(MEAN, STD, None)
    for kept in (train, loader(pictures, validation_split=0.3, in_memory=True, **ALL)):
        valid = kept.split_validation()
        numbers = [int(i) for i in kept.valid_sampler.indices]
        expected, classes = plain([pictures[i] for i in numbers])
        found, targets = gathered(valid)
        assert torch.equal(found, expected.on_device(torch.device("cpu")))
        assert torch.equal(targets, classes)
    test = loader(pictures, training=False, shuffle=False, cutmix=1.0, **ALL)
    found, targets = gathered(test)
    expected, classes = plain([pictures[i] for i in range(len(pictures))])
    assert torch.equal(found, expected.on_device(torch.device("cpu")))
    assert torch.equal(targets, classes)


def test_a_sample_that_is_left_out_changes_no_other():
    whole = loader(Pictures(), shuffle=False, skip_unreadable=True, **ALL)
    pictures = Pictures(broken=[11])
    part = loader(pictures, shuffle=False, skip_unreadable=True, **ALL)
    images, _ = gathered(whole)
    order = part._passes.order
    order.take(1, 1, 2)
    (index,) = order
    left = part._passes.fetcher[index].batch
    found = to_device(left, torch.device("cpu"))[0]
    numbers = [8, 9, 10, 12, 13, 14, 15]
    assert torch.equal(found, images[numbers])


@pytest.mark.parametrize("asked", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_targets_say_what_the_images_show(asked):
    finish = Finish([0.0], [1 / 255], Augmentation(**asked), classes=10)
    # Image i is i all over, so that its mean says how much it shows of which.
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 32, 24)
    with seeding.Rows(1, "train", 1, 0):
        pixels, labels = finish.batch(images.contiguous(), torch.arange(10))
    shown = pixels.on_device(torch.device("cpu"))
    shares = labels.on_device(torch.device("cpu"))
    torch.testing.assert_close(shares.sum(1), torch.ones(10))
    torch.testing.assert_close(shown.mean((1, 2, 3)), shares @ torch.arange(10.0))
    assert int((shares > 0).sum()) > 15 and is_under_way((pixels, labels))
    kinds = [len(image.unique()) for image in shown]
    if "mixup" not in asked:
        assert set(shown.flatten().tolist()) <= set(range(10))
    elif "cutmix" in asked:
        assert {1, 2} <= set(kinds)
    else:
        assert set(kinds) == {1}


def test_metrics_take_the_main_class_of_mixed_targets():
    output = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]])
    shares = torch.tensor([[0.4, 0.6, 0.0], [0.3, 0.0, 0.7]])
    assert (
        accuracy(output, shares).tolist() == [1, 0] == accuracy(output, shares.argmax(1)).tolist()
    )
    assert top_k_acc(output, shares, 1).tolist() == [1, 0]
    classes = torch.tensor([1.0, 1.0])  # as numbers that are no integers
    assert accuracy(output, classes).tolist() == [1, 0] == top_k_acc(output, classes, 1).tolist()


@pytest.mark.parametrize("parameter", [0.1, 0.4, 1.0, 3.0, 20.0, 1000.0])
def test_shares_are_of_a_beta_distribution(parameter):
    uniform = (torch.arange(20000) + 0.5) / 20000
    found = beta(uniform, parameter)
    expected = torch.distributions.Beta(parameter, parameter)
    assert float(found.mean()) == pytest.approx(0.5, abs=1e-4)
    assert float(found.var()) == pytest.approx(float(expected.variance), rel=2e-3)
    assert (found.diff() >= 0).all() and found.min() >= 0 and found.max() <= 1
    assert beta(uniform, 0).tolist() == [1.0] * 20000


def test_boxes_within_an_image():
    box = Boxes(*(torch.tensor([each]) for each in (1, 2, 3, 7)))
    assert box.masks(9, 8)[0, 0].nonzero().tolist() == [[r, c] for r in (1, 2) for c in range(2, 7)]
    assert box.share(9, 8).item() == pytest.approx(10 / 72)


def settings(path, **changes):
    arguments = {"size": 41, "image_size": SIZE, "num_classes": 3}
    dataset = {"type": "torchvision.datasets.FakeData", "args": arguments}
    given = {"dataset": dataset, "classes": 3, "mean": MEAN, "std": STD, "batch_size": 8, **ALL}
    given |= {"validation_split": 0.2, **changes.pop("given", {})}
    return tiny.settings(
        path,
        arch={"type": "Small"},
        data_loader={"type": "ImageLoader", "args": given},
        loss="soft_cross_entropy",
        metrics=[],
        lr_scheduler=None,
        **changes,
    )


@pytest.mark.parametrize(
    "given", [{}, {"in_memory": True}, {"num_workers": 1, "mixup": 0.3, "cutmix": 1.0}]
)
def test_a_run_is_continued_exactly_inside_an_epoch(tmp_path, given):
    whole = tiny.train(settings(tmp_path / "a", given=given, trainer__epochs=2))
    config = settings(tmp_path / "b", given=given, trainer__epochs=2)
    again = tiny.train(config, resume=interrupted(config, after=6))
    assert tiny.digest(again.model) == tiny.digest(whole.model)
    assert tiny.rows(again) == tiny.rows(whole)


def weights_of(config):
    model = unwrap(tiny.train(config).model).double()
    return copy.deepcopy(model.state_dict())


def test_two_processes_are_one_and_two_batches_are_one_large_one(tmp_path):
    alone = ranks.run(tmp_path, 1, weights_of, settings(tmp_path / "1"))[0]
    for weights in ranks.run(tmp_path, 2, weights_of, settings(tmp_path / "2")):
        assert furthest(weights, alone) < 1e-5
    halves = settings(tmp_path / "3", given={"batch_size": 4}, trainer__accumulate=2)
    assert furthest(weights_of(halves), alone) < 1e-5


class Waits(TorchDispatchMode):
    """What the host would wait for: copies that block, and values that are read."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("device") == META and "_to_copy" in str(function):
            if not kwargs.get("non_blocking", False):
                self.found.append(function)
        return function(*args, **kwargs)


@pytest.mark.parametrize("given", [{}, {"in_memory": True}])
def test_nothing_of_it_waits_for_the_device(monkeypatch, given):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: META)
    given = {"device_resident": True} if given else {}
    made = loader(mixup=0.2, cutmix=1.0, **ALL, **given)
    batches = [
        to_device(batch, META) for batch in made.batches(1)
    ]  # the first has the scale to copy
    with Waits() as waits:
        for batch in made.batches(2):
            images, target = to_device(batch, META, channels_last=True)
            assert images.device == target.device == META
            assert images.is_contiguous(memory_format=torch.channels_last)
    assert not waits.found and len(batches) == 6
    if given:
        assert made.dataset.images.device == META


def test_a_batch_may_be_pinned_and_sent():
    """Torch puts named tuples together anew, item by item, and pickles what a worker gives."""
    (batch,) = loader(batch_size=41, mixup=1.0, **ALL).batches(1)
    pixels, labels = batch
    assert type(pixels)(*pixels) == pixels and type(labels)(*labels) == labels
    file = io.BytesIO()
    pixels.on_device(torch.device("cpu"))
    torch.save(batch, file)
    file.seek(0)
    sent = torch.load(file, weights_only=False)
    assert sent[0].finish._there == {} != pixels.finish._there
    for one, other in zip(batch, sent, strict=True):
        there = one.on_device(torch.device("cpu"))
        assert torch.equal(there, other.on_device(torch.device("cpu")))


class Doubled:
    """What is twice as much where it arrives."""

    def __init__(self, x):
        self.x = x

    def on_device(self, device):
        return 2 * self.x.to(device)


class Told:
    """It says where it is, and moves as a tensor does."""

    on_device = "cpu"

    def __init__(self, x):
        self.x = x

    def to(self, device):
        return Told(self.x.to(device))


@pytest.mark.parametrize("inside", [lambda x: {"a": {"b": [x]}}, lambda x: ((x, 1), "text")])
def test_what_arrives_may_be_anywhere_in_a_batch(inside):
    batch = inside(Doubled(torch.ones(2)))
    assert is_under_way(batch) and not is_under_way(inside(torch.ones(2)))
    there = arrived(batch)
    while not isinstance(there, torch.Tensor):
        there = next(iter(there.values() if isinstance(there, dict) else there))
    assert there.tolist() == [2, 2]


def test_another_attribute_of_that_name_is_no_method():
    batch = (Told(torch.ones(2)), torch.ones(2))
    assert not is_under_way(batch)
    assert to_device(batch, META)[0].x.device == META


BYTES = np.zeros((9, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(BYTES),
        BYTES,
        torch.zeros(3, 9, 7, dtype=torch.uint8),
        BYTES.transpose(1, 0, 2),
    ],
)
def test_images_of_many_kinds(image):
    found = pixels_of(image)
    assert found.dtype == torch.uint8 and found.shape in ((3, 9, 7), (3, 7, 9))
    assert pixels_of(Image.fromarray(BYTES[..., 0])).shape == (1, 9, 7)


@pytest.mark.parametrize(
    "samples, told",
    [
        ([(torch.zeros(3, 9, 7), 0)], r"image of bytes, found a Tensor torch.float32 \[3, 9, 7\]"),
        ([(BYTES, 0), (BYTES[1:], 0)], r"images of 3x8x7 and 3x9x7: let the dataset's transform"),
        ([(BYTES, 0), (BYTES[..., 0], 0)], r"1x9x7 and 3x9x7: some are grey and some not"),
        ([(Image.new("RGBA", (7, 9)), 0)], r'mode RGBA: image.convert\("RGB"\)'),
        ([(BYTES[..., 0], 0)], r"images have 1 channels, and mean 3 values"),
        ([BYTES], r"expected samples \(image, target\), found a ndarray uint8"),
        ([("a.png", 0)], r"found a str: one of PIL, an array uint8 \[height"),
        ([(BYTES.astype(int), 0)], r"found a ndarray int64 \[9, 7, 3\]: one of PIL"),
    ],
)
def test_what_is_no_image_is_told(samples, told):
    with pytest.raises(DataError, match=told):
        Finish(MEAN, STD, None)(samples)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"flip": 1.5}, r"flip: expected a share, 0 to 1, found 1.5"),
        ({"erase": float("nan")}, r"erase: expected a share"),
        ({"crop": -1}, r"crop: expected a number of at least 0"),
        ({"mixup": float("inf")}, r"mixup: expected a number"),
        ({"std": [0.1, 0.0, 0.1]}, r"std: expected values above 0"),
        ({"std": [0.1, 1e-46, 0.1]}, r"std: expected values above 0, at least 1e-06, up to 1"),
        ({"std": [51.0, 62.0, 70.0]}, r"up to 1, found \[51.0, 62.0, 70.0\]"),
        ({"mean": [125.3, 123.0, 113.9]}, r"mean: expected values of 0..1, where pixels of 0..255"),
        ({"mean": [0.1, 10**400, 0.1]}, r"mean: expected values of 0..1"),
        ({"mean": [0.1, float("nan"), 0.1]}, r"mean: expected values of 0..1"),
        ({"mixup": 1.0, "classes": 10**30}, r"classes: expected an integer of at least 1"),
        ({"mixup": 1.0, "classes": -1}, r"classes: expected an integer of at least 1, found -1"),
        ({"collate_fn": list}, r"collate_fn: ImageLoader makes its batches itself"),
        ({"mean": [0.1]}, r"mean has 1 values and std 3"),
        ({"crop": 7}, r"crop: 7 pixels of images of 9x7: give fewer than their shorter side"),
        ({"mixup": 1.0, "classes": 2}, r"classes of 0 to 2, where there are 2"),
    ],
)
def test_what_makes_no_sense_is_told(options, told):
    given = {"mean": MEAN, "std": STD, "batch_size": 41, **options}
    maker = DatasetMaker(lambda sections: Pictures(), ("args",), "dataset", "x")
    for way in ({}, {"in_memory": True}):
        with pytest.raises((ConfigError, DataError), match=told):
            list(ImageLoader(maker, **given, **way))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_a_batch_is_told_in_plain_words(workers):
    with pytest.raises(DataError, match=r"pass 1: crop: 7 pixels of images of 9x7: [^\n]*$"):
        list(loader(crop=7, num_workers=workers))


def test_mixing_needs_the_number_of_classes(monkeypatch):
    monkeypatch.delattr(Pictures, "classes")
    with pytest.raises(ConfigError, match="does not say how many classes it has: give classes"):
        loader(cutmix=1.0)
    loader(cutmix=1.0, training=False)


class Labelled(Pictures):
    """With what a dataset may say of its samples."""

    def __init__(self):
        super().__init__()
        self.targets = [i % 3 for i in range(41)]
        self.rarely = [0.0] * 40 + [1.0]


@pytest.mark.parametrize("weights", ["balanced", "rarely"])
def test_samples_are_drawn_by_weight_from_memory_as_from_files(weights):
    kinds = [loader(Labelled(), weights=weights, in_memory=each) for each in (False, True)]
    first, second = [gathered(each) for each in kinds]
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert copy.deepcopy(kinds[1].dataset).classes == Pictures.classes


def test_what_memory_cannot_hold_is_told():
    with pytest.raises(ConfigError, match="skip_unreadable has no effect beside in_memory and dev"):
        loader(Pictures(broken=[3]), in_memory=True, skip_unreadable=True)
    with pytest.raises(OSError, match="torn") as told:
        loader(Pictures(broken=[3]), in_memory=True)
    assert told.value.__notes__ == ["in sample 3"]
    for target in ({"y": 1}, (1, 2), "a"):
        dataset = [(BYTES, target)] * 3
        with pytest.raises(DataError, match="in_memory keeps targets that are numbers"):
            loader(dataset, in_memory=True)


def test_what_a_batch_cannot_be_made_of_is_told_in_plain_words():
    with pytest.raises(DataError) as told:
        list(loader([(BYTES, 0), (BYTES[1:], 0)], shuffle=False))
    assert str(told.value).endswith(
        "of pass 1: images of 3x8x7 and 3x9x7: let the dataset's transform resize them"
    )


def test_a_loss_that_takes_no_shares_is_told_with_one_that_does(tmp_path):
    given = {"mixup": 0.5}
    config = settings(tmp_path / "a", given=given, trainer__epochs=1)
    config["loss"] = "nll_loss"
    tiny.nll_loss = nn.functional.nll_loss
    with pytest.raises(RuntimeError) as told:
        tiny.train(config)
    assert "mixup and cutmix make them: set loss=cross_entropy" in told.value.__notes__[-1]
    config["loss"] = "cross_entropy"
    tiny.train(config)


RED = Image.fromarray(np.full((9, 7, 3), (200, 0, 0), dtype=np.uint8))
GREY = RED.convert("L")
MIXED = {"mixup": 1.0, "classes": 3}
#: Samples and options that are refused, and as what is said changes them.
MENDED = {
    "leave out of its transform": (
        ([(torch.zeros(3, 9, 7), 0)], {}),
        ([(torch.zeros(3, 9, 7, dtype=torch.uint8), 0)], {}),
    ),
    "let the dataset's transform resize": (
        ([(RED, 0), (RED.resize((9, 9)), 0)], {}),
        ([(RED, 0), (RED.resize((9, 9)).resize((7, 9)), 0)], {}),
    ),
    "take a class int64": (([(RED, np.int32(0))], MIXED), ([(RED, np.int64(0))], MIXED)),
    "some are grey": (([(RED, 0), (GREY, 0)], {}), ([(RED, 0), (GREY.convert("RGB"), 0)], {})),
    "give mean and std one a channel": (
        ([(GREY, 0)], {}),
        ([(GREY, 0)], {"mean": [0.5], "std": [0.5]}),
    ),
    "give fewer than their shorter side": (([(RED, 0)], {"crop": 7}), ([(RED, 0)], {"crop": 6})),
    "has mode RGBA": (([(RED.convert("RGBA"), 0)], {}), ([(RED, 0)], {})),
    "skip_unreadable has no effect": (
        ([(RED, 0)], {"skip_unreadable": True, "in_memory": True}),
        ([(RED, 0)], {"skip_unreadable": True}),
    ),
    "give classes": (([(RED, 0)], {"cutmix": 1.0}), ([(RED, 0)], {"cutmix": 1.0, "classes": 1})),
    "classes of 5 to 5, where there are 3": (([(RED, 5)], MIXED), ([(RED, 2)], MIXED)),
}


@pytest.mark.parametrize("told", MENDED)
def test_what_is_said_of_images_helps(told):
    def made(samples, options):
        maker = DatasetMaker(lambda sections: samples, ("args",), "dataset", "x")
        given = {"mean": MEAN, "std": STD, "batch_size": 8, **options}
        return list(ImageLoader(maker, **given))

    (wrong, mended) = MENDED[told]
    with pytest.raises((ConfigError, DataError), match=told):
        made(*wrong)
    assert len(made(*mended)) == 1
