"""Decides which folders of a data set are its classes, and which are its splits.

The rules, which docs/data.md shows by examples:

- A folder named after a split is never a class. Its images have the class of the folder above if that holds nothing but splits,
  and lies beside other classes; else they are unlabelled, and skipped. There are two exceptions: `train` beside at least two
  class folders and no other split, and `valid` beside `invalid`.
- Else the class of an image is the lowest folder, unless another reading is as likely. Then the data is rejected with both, and
  `class_folder` of `advanced` chooses: `lowest`, `highest`, or a level from the top.
- Folders that all images share, and split folders, do not count as levels.
- Images beside the split folders that hold the classes are in no class of their own: they are skipped if there are several
  split folders, and the data is rejected if there is one.
- Folders whose names say only that they hold a part of the images, such as `images_1` and `images_2`, are no classes, unless
  `class_folder` says so.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby

from kfp_vision.core.advanced import AUTO, HIGHEST, LOWEST
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.import_files import SPLIT_NAMES
from kfp_vision.dataset.table import some
from kfp_vision.storage.base import redact_uri

NOT_IN_CLASS_FOLDER = "not in a class folder"
UNLABELLED = "in a split folder without class folders"
BESIDE_SPLITS = "beside the split folders that hold the classes"
# Words of a folder's name, in camel case too: `TestImages`, `seg_train`, `train2017`.
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
SPLIT_WORDS = SPLIT_NAMES | {"trainval": "train"}
UNLABELLED_WORDS = ("pred", "predict", "prediction", "unlabeled", "unlabelled")  # of splits, if beside others


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of folders that hold data of any kind.
CONTAINER_WORDS = _word_set(
    "all data dataset datasets dir file files folder image images img imgs jpeg jpg part photo photos pic pics picture "
    "pictures png set sets"
)
# How cameras and telephones number their folders: `100APPLE`, `101CANON`.
CAMERA_FOLDER = re.compile(r"[1-9]\d\d[A-Z_]{5}")
# Words that may stand beside that of a split, as in `test_images`.
FILL_WORDS = CONTAINER_WORDS | _word_set(
    "batch clean crop cropped final fold full large mini new orig original private processed public raw resized sample samples "
    "seg small split splits stage stg subset tiny v ver version x zip"
)
# Folders that hold a part of the data of each image: `COVID/images` and `COVID/masks`.
PART_WORDS = _word_set(
    "annotation annotations bbox bboxes gt groundtruth image images img imgs jpegimages label labels mask masks segmentation "
    "segmentations"
)
ABOUT_WORDS = PART_WORDS - CONTAINER_WORDS  # of folders that say something about each image
# Folders beside the classes that are not meant to hold images.
OTHER_WORDS = _word_set(
    "code csv doc docs documentation info json license licenses log logs meta metadata model models notebook notebooks readme "
    "script scripts src txt weights xml xmls"
)
ANNOTATIONS = "which may be annotations"
LAYOUT = "Put the images into one folder per class"

Folder = tuple[str, ...]  # the parts of its path below the root of the data


@dataclass(frozen=True, slots=True)
class Place:
    """What the images directly in a folder are.

    Attributes:
        label: their class; empty if they are skipped.
        split: their predefined split; empty for none.
        reason: why they are skipped; empty if they are not.
        class_folder: path of the folder that gives the class.
    """

    label: str = ""
    split: str = ""
    reason: str = ""
    class_folder: Folder = ()


@dataclass
class Layout:
    """How the folders of a data set are read.

    Attributes:
        places: by folder, for each folder that directly holds images.
        notes: what was decided, one sentence each.
    """

    places: dict[str, Place]
    notes: list[str] = field(default_factory=list)


def read_layout(images: Mapping[str, int], class_folder: str, images_uri: str, *, classes: bool = True) -> Layout:
    """Decides which folders are classes and splits.

    Args:
        images: number of images directly in each folder, by its path below the root of the data; empty for the root.
        class_folder: field of `advanced`: `auto`, `lowest`, `highest` or a level.
        images_uri: of the data, for messages.
        classes: whether every image must have a class. If False, doubts are told in a note.

    Returns:
        The layout.

    Raises:
        InputError: no folder is at the level of `class_folder`; or all images are unlabelled, or it is not clear which folders
            are the classes.
    """
    tree = _Tree({_parts(folder): count for folder, count in images.items()})
    homes = {folder: home for folder in tree.images if (home := tree.class_home(folder))}
    beside = _beside_splits(tree, homes, images_uri) if class_folder == AUTO and classes else {}
    homes = {folder: home for folder, home in homes.items() if folder not in beside}
    levels = {folder: tree.without_splits(home) for folder, home in homes.items()}
    shared = _shared_depth(levels.values())
    if classes:
        _check_labelled(tree, {path[shared:] for path in levels.values()}, class_folder, images_uri)
    choice, notes = _choose(levels, shared, class_folder, images_uri, classes)
    splits = _predefined_splits({folder: tree.splits_above(folder) for folder in homes})
    places = {}
    for folder in tree.images:
        depth = _level_depth(levels[folder], shared, choice) if folder in homes else None
        if depth is None:
            reason = UNLABELLED if tree.is_unlabelled(folder) else BESIDE_SPLITS if folder in beside else NOT_IN_CLASS_FOLDER
            places["/".join(folder)] = Place(reason=reason)
            continue
        home = tree.folder_at(homes[folder], depth)
        places["/".join(folder)] = Place(home[-1], splits[folder], class_folder=home)
    return Layout(places, [*notes, *tree.notes(), *_notes_on_beside(tree, beside)])


def splits_by_folder(folders: Iterable[str]) -> list[str]:
    """Finds predefined splits where folders are not classes: folders named train, and validation or test beside it.

    Args:
        folders: of each image, its path below the root of the data.

    Returns:
        The split of each image; empty if it has none.
    """
    listed = [_parts(folder) for folder in folders]
    tree = _Tree(dict.fromkeys(listed, 1))
    splits = _predefined_splits({folder: tree.splits_above(folder) for folder in tree.images})
    return [splits[folder] for folder in listed]


def split_of_name(name: str) -> str:
    """Returns the split that a folder is named after: train, validation or test; empty if none.

    Args:
        name: of the folder, such as `Train`, `val2017`, `test_images` or `seg_train`.
    """
    words = _words(name)
    splits = {split for word in words if (split := _split_of_word(word))}
    others = [word for word in words if not _split_of_word(word) and word not in FILL_WORDS]
    return splits.pop() if len(splits) == 1 and not others else ""


def empty_classes(layout: Layout, folders: Iterable[str], images: Collection[str]) -> list[str]:
    """Finds folders beside the class folders that hold no usable image, and whose class has none elsewhere.

    Args:
        layout: of the data.
        folders: all folders of the data that may be empty, by path.
        images: all folders that directly hold images, by path.

    Returns:
        The paths, sorted; split folders are not among them.
    """
    parents = {place.class_folder[:-1] for place in layout.places.values() if place.label}
    labels = {place.label for place in layout.places.values()}
    used = {parts[:depth] for parts in map(_parts, images) for depth in range(len(parts) + 1)}
    empty = {
        parts[: depth + 1]
        for parts in map(_parts, folders)
        for depth in range(len(parts))
        if parts[:depth] in parents and parts[: depth + 1] not in used
    }
    return sorted("/".join(folder) for folder in empty if folder[-1] not in labels and not split_of_name(folder[-1]))


def is_meant_for_images(name: str) -> bool:
    """Returns whether a folder beside class folders is likely to be a class, and not `annotations`, `docs` or the like.

    Args:
        name: of the folder.
    """
    return not _consists_of(name, CONTAINER_WORDS | PART_WORDS | OTHER_WORDS)


class _Tree:
    """The folders that hold images, directly or below, with those named after a split."""

    def __init__(self, images: Mapping[Folder, int]):
        self.images = images
        self.below: dict[Folder, set[str]] = {}
        for folder in images:
            for depth, name in enumerate(folder):
                self.below.setdefault(folder[:depth], set()).add(name)
        self.splits: dict[Folder, str] = {}  # folders named after a split
        self.exceptions: list[Folder] = []  # such that are classes nevertheless
        for parent, names in sorted(self.below.items(), key=lambda one: len(one[0])):
            nested = {name for name in names if (*parent, name) in self.below}
            named = _splits_among(names, nested, is_in_split=parent in self.splits)
            if parent in self.splits and parent[-1] in names:  # dogs_train/dogs_train, as some archives are unpacked
                named[parent[-1]] = self.splits[parent]
            for name, split in named.items():
                if self._is_exception(parent, name, names - named.keys(), len(named)):
                    self.exceptions.append((*parent, name))
                else:
                    self.splits[(*parent, name)] = split
        self.within_classes = {folder for folder in self.below if self._is_class_of_splits(folder)}

    def class_home(self, folder: Folder) -> Folder:
        """Returns the lowest folder that can be the class of the images in a folder; empty if there is none."""
        if folder[:-1] in self.within_classes:
            return folder[:-1]
        return () if folder in self.splits or self.is_unlabelled(folder) else folder

    def is_unlabelled(self, folder: Folder) -> bool:
        """Returns whether the images in a folder are in a split that has no class folders."""
        above = [folder[:depth] for depth in range(1, len(folder) + 1) if folder[:depth] in self.splits]
        return bool(above) and above[-1][:-1] not in self.within_classes and self._holds_no_names(above[-1])

    def _holds_no_names(self, folder: Folder) -> bool:
        """Returns whether the names of all folders in a folder say no more than that there are images: `test/images`."""
        return all(
            _consists_of(name, CONTAINER_WORDS | PART_WORDS) and self._holds_no_names((*folder, name))
            for name in self.below.get(folder, ())
        )

    def without_splits(self, folder: Folder) -> Folder:
        """Returns the names of a path, without those of split folders."""
        return tuple(name for depth, name in enumerate(folder, start=1) if folder[:depth] not in self.splits)

    def folder_at(self, folder: Folder, depth: int) -> Folder:
        """Returns the start of a path that has a number of names besides split folders."""
        ends = [end for end in range(1, len(folder) + 1) if folder[:end] not in self.splits]
        return folder[: ends[depth - 1]]

    def splits_above(self, folder: Folder) -> list[tuple[Folder, str]]:
        """Returns the split folders of a path from the top, each as the folder whose splits belong together, and the split."""
        found = []
        for depth in range(1, len(folder) + 1):
            parent = folder[: depth - 1]
            if split := self.splits.get(folder[:depth]):
                found.append((parent[:-1] if parent in self.within_classes else parent, split))
        return found

    def notes(self) -> list[str]:
        """Returns sentences on the folders that are named after splits."""
        sentences = []
        unlabelled = {"/".join(folder): count for folder, count in self.images.items() if self.is_unlabelled(folder)}
        if unlabelled:
            sentences.append(
                f"{sum(unlabelled.values())} images have no label and are not used, since they are {UNLABELLED}: "
                f"{some(list(unlabelled))}. Rename the folder if it is a class."
            )
        for folder in sorted(self.exceptions):
            sentences.append(
                f"The folder {'/'.join(folder)} is a class, since class folders and no other split are beside it. "
                "Move it elsewhere if it is not."
            )
        if self.within_classes:
            names = {name for folder in self.within_classes for name in self.below[folder]}
            sentences.append(f"The folders {some(list(names))} within the classes are splits.")
        return sentences

    def _is_exception(self, parent: Folder, name: str, others: set[str], splits: int) -> bool:
        """Returns whether a folder named after a split is a class, such as the trains of a data set of vehicles."""
        classes = [other.lower() for other in others if (*parent, other) in self.images]
        if (*parent, name) in self.below:
            return False
        word = name.lower()
        return (word == "train" and len(classes) > 1 and splits == 1) or (word == "valid" and "invalid" in classes)

    def _is_class_of_splits(self, folder: Folder) -> bool:
        """Returns whether a folder is a class whose images are in splits within it, as are those of a class beside it."""
        if not folder or not self._holds_splits_only(folder):
            return False
        parent, name = folder[:-1], folder[-1]
        return any(
            (*parent, other) in self.images or self._holds_splits_only((*parent, other))
            for other in self.below[parent]
            if other != name and (*parent, other) not in self.splits
        )

    def _holds_splits_only(self, folder: Folder) -> bool:
        below = [(*folder, name) for name in self.below.get(folder, ())]
        is_flat = bool(below) and all(one in self.splits and one not in self.below for one in below)
        return is_flat and folder not in self.splits and not _consists_of(folder[-1], CONTAINER_WORDS | PART_WORDS)


def _parts(folder: str) -> Folder:
    return tuple(folder.split("/")) if folder else ()


def _words(name: str) -> list[str]:
    """Returns the words of a name, in lower case; the whole name if it has letters of other scripts."""
    return [word.lower() for word in WORD.findall(name)] if name.isascii() else [name]


def _consists_of(name: str, allowed: Collection[str]) -> bool:
    words = _words(name)
    return bool(words) and (all(word in allowed for word in words) or "".join(words) in allowed)


@cache
def _split_of_word(word: str) -> str:
    """Returns the split of a word such as `train` or `testset`; empty if it is none."""
    endings = ((split, word[len(begin) :]) for begin, split in SPLIT_WORDS.items() if word.startswith(begin))
    return SPLIT_WORDS.get(word) or next((split for split, ending in endings if ending in FILL_WORDS), "")


def _splits_among(names: Collection[str], nested: Collection[str], *, is_in_split: bool) -> dict[str, str]:
    """Finds the folders named after splits among those in one folder, with their splits.

    `dogs_train` and `dogs_test` count too, as they differ in the split only; and, beside a split that holds folders,
    `test-of-many`, and `unlabeled`, whose split is empty; the latter also within a split.

    Args:
        names: of the folders.
        nested: those of them that hold folders.
        is_in_split: whether the folder that holds them is named after a split.
    """
    found = {name: split for name in names if (split := split_of_name(name))}
    are_beside_classes = not found.keys().isdisjoint(nested)
    alike: dict[str, dict[str, str]] = {}
    for name in names:
        words = [word for word in WORD.findall(name) if _split_of_word(word.lower())]
        if len(words) == 1:
            rest = name.replace(words[0], "*").lower()
            alike.setdefault(rest, {})[name] = _split_of_word(words[0].lower())
    for same in alike.values():
        if are_beside_classes or ("train" in same.values() and len(set(same.values())) > 1):
            found |= same
    if found or is_in_split:
        allowed = (*UNLABELLED_WORDS, *FILL_WORDS)
        for name in names:
            words = _words(name)
            if not set(words).isdisjoint(UNLABELLED_WORDS) and all(word in allowed for word in words):
                found.setdefault(name, "")
    return found


def _predefined_splits(above: Mapping[Folder, list[tuple[Folder, str]]]) -> dict[Folder, str]:
    """Returns the predefined split of each folder: train counts only with another beside it, and the others only with train."""
    at: dict[Folder, set[str]] = {}
    for places in above.values():
        for place, split in places:
            at.setdefault(place, set()).add(split)
    complete = {place for place, splits in at.items() if "train" in splits and len(splits) > 1}
    return {folder: next((split for place, split in places if place in complete), "") for folder, places in above.items()}


def _beside_splits(tree: _Tree, homes: Mapping[Folder, Folder], images_uri: str) -> dict[Folder, Folder]:
    """Finds folders of images beside the split folders of the classes, that hold none of these: `Meta` beside `train/daisy`.

    Args:
        tree: the folders.
        homes: of each folder, the lowest that can be its class.
        images_uri: of the data, for the message.

    Returns:
        By folder of images, the folder that is beside the splits.

    Raises:
        InputError: it may be a class, since there is one split folder only.
    """
    classes: dict[Folder, set[str]] = {}  # in the split folders of a folder
    splits: dict[Folder, dict[str, str]] = {}
    for home in homes.values():
        for depth in range(1, len(home)):
            if home[:depth] in tree.splits:
                classes.setdefault(home[: depth - 1], set()).add(home[-1])
    for folder, split in tree.splits.items():
        if folder[:-1] in classes and split:
            splits.setdefault(folder[:-1], {})[folder[-1]] = split
    beside = {}
    for folder, home in homes.items():
        for depth in range(1, len(home) + 1):
            parent, name = home[: depth - 1], home[depth - 1]
            is_no_class = _consists_of(name, OTHER_WORDS | ABOUT_WORDS)
            if home[:depth] in tree.splits or parent not in classes or (home[-1] in classes[parent] and not is_no_class):
                continue
            are_splits = len(set(splits.get(parent, {}).values())) > 1 and len(classes[parent]) > 1
            if not are_splits and is_meant_for_images(home[-1]) and not is_no_class:
                beside_what = f"{'/'.join(home[:depth])} beside the split folder {some(list(splits.get(parent, {})))}"
                raise InputError(
                    "images_uri must show which folders are the classes",
                    f"{beside_what}, which holds {some(list(classes[parent]))}, at {redact_uri(images_uri)}",
                    f'Move {name} elsewhere if it is no class, or set advanced to {{"class_folder": "lowest"}} if it is one.',
                )
            beside[folder] = home[:depth]
            break
    return beside


def _notes_on_beside(tree: _Tree, beside: Mapping[Folder, Folder]) -> list[str]:
    if not beside:
        return []
    count, folders = sum(tree.images[folder] for folder in beside), {"/".join(folder) for folder in beside.values()}
    return [
        f"{count} images are not used, since they are {BESIDE_SPLITS}: {some(list(folders))}. "
        "Move the folder into one of them if it is a class."
    ]


def _are_parts(names: Collection[str]) -> bool:
    """Returns whether the names of folders say only that each holds a part: `images_1` and `images_2`, `100APPLE`."""
    allowed = CONTAINER_WORDS | {"batch", "batches"}
    if all(CAMERA_FOLDER.fullmatch(name) or _consists_of(name, allowed) for name in names):
        return True
    without_numbers = {re.sub(r"\d+", "", name) for name in names}
    return len(without_numbers) == 1 and not allowed.isdisjoint(_words(without_numbers.pop()))


def _check_labelled(tree: _Tree, paths: Collection[Folder], class_folder: str, images_uri: str) -> None:
    """Rejects data whose only folders are splits, or parts such as images and masks."""
    unlabelled = {"/".join(folder): count for folder, count in tree.images.items() if tree.is_unlabelled(folder)}
    if unlabelled and not paths:
        example = f"{some(list(unlabelled))} at {redact_uri(images_uri)} ({sum(unlabelled.values())} images)"
        raise InputError(
            "images_uri must hold class folders, not only folders named after splits",
            f"no class folders in {example}",
            f"{LAYOUT} and split, such as train/daisy/1.jpg and train/tulip/2.jpg, or list them with labels in an import file.",
        )
    labels = {path[-1] for path in paths}
    if class_folder == AUTO and len(labels) > 1 and all(len(path) == 1 for path in paths) and _are_parts(labels):
        raise InputError(
            "images_uri must hold class folders",
            f"folders whose names tell no class at {redact_uri(images_uri)} ({some(sorted(labels))})",
            f"{LAYOUT}, or list them with labels in an import file. "
            'If each of these folders is a class, set advanced to {"class_folder": "lowest"}.',
        )
    if len(paths) > 1 and all(len(path) == 1 and _consists_of(path[0], PART_WORDS) for path in paths):
        value = f"only {some([path[0] for path in paths])} at {redact_uri(images_uri)}"
        remedy = f"{LAYOUT}, such as photos/daisy/1.jpg and photos/tulip/2.jpg."
        raise InputError("images_uri must hold class folders", value, remedy)


def _shared_depth(paths: Iterable[Folder]) -> int:
    """Returns the number of folders at the top that all paths share; at least one of each path remains."""
    listed = list(paths)
    if not listed:
        return 0
    first, last = min(listed), max(listed)
    most = min(map(len, listed)) - 1
    return next((depth for depth in range(most) if first[depth] != last[depth]), most)


def _level_depth(path: Folder, shared: int, choice: str) -> int | None:
    """Returns the depth of the folder that gives the class; None if there is none at the level chosen."""
    if choice == LOWEST:
        return len(path)
    depth = shared + (1 if choice == HIGHEST else int(choice))
    return depth if depth <= len(path) else None


def _choose(
    levels: Mapping[Folder, Folder], shared: int, class_folder: str, images_uri: str, classes: bool
) -> tuple[str, list[str]]:
    """Returns the choice of folders, and sentences that say so if there are several; rejects a doubtful one with `classes`."""
    paths = {path[shared:] for path in levels.values()}
    depth = max(map(len, paths), default=0)
    if class_folder.isdecimal() and int(class_folder) > depth > 0:
        rule = "class_folder of advanced must be a level that has folders"
        raise InputError(rule, class_folder, f"The lowest folders of {redact_uri(images_uri)} are at level {depth}.")
    if depth < 2:
        return (class_folder if class_folder != AUTO else LOWEST), []
    if class_folder != AUTO:
        which = f"the folders at level {class_folder}" if class_folder.isdecimal() else f"the {class_folder} folders"
        return class_folder, [f"The classes are {which}, as class_folder of advanced says."]
    lowest, highest = (some(sorted({path[end] for path in paths})) for end in (-1, 0))
    if (doubt := _doubt(paths)) and classes:
        middle = "".join(
            f", level {level} ({some(sorted({path[level - 1] for path in paths if len(path) >= level}))})"
            for level in range(2, depth + any(len(path) < depth for path in paths))
        )
        raise InputError(
            "images_uri must show which folders are the classes",
            f"{doubt} at {redact_uri(images_uri)}; the lowest are {lowest}, the highest {highest}",
            f"{'Move annotations elsewhere, or set' if doubt.endswith(ANNOTATIONS) else 'Set'} advanced to "
            f'{{"class_folder": "highest"}} or {{"class_folder": "lowest"}}{_or_level(middle)}',
        )
    above = some(sorted({path[-2] for path in paths if len(path) > 1}))
    return LOWEST, [
        f"The classes are the lowest folders ({lowest}), not those above them ({above}). "
        "Set class_folder of advanced to highest if it is the highest that are meant."
    ]


def _or_level(middle: str) -> str:
    return f', or to a level, such as {{"class_folder": "2"}}: {middle.removeprefix(", ")}.' if middle else "."


def _doubt(paths: Collection[Folder]) -> str:
    """Returns what speaks against the lowest folders as classes; empty if nothing does."""
    parents: dict[tuple[int, str], set[str]] = {}
    for path in paths:
        for depth in range(1, len(path)):
            parents.setdefault((depth, path[depth]), set()).add("/".join(path[:depth]))
    repeated = {name: above for (_, name), above in sorted(parents.items()) if len(above) > 1}
    for name, above in repeated.items():
        others = f" (and {len(repeated) - 1} more such names)" if len(repeated) > 1 else ""
        return f"folders named {name} in {_few(above)}{others}"
    for path in sorted(paths):
        if containing := next((path[:depth] for depth in range(1, len(path)) if path[:depth] in paths), None):
            return f"images both in {'/'.join(containing)} and in {'/'.join(path)}"
    nested = sorted(path for path in paths if len(path) > 1)
    if parts := [path for path in nested if _consists_of(path[-1], PART_WORDS)]:
        return f"images in {_few('/'.join(path) for path in parts)}"
    about = {path for path in nested if any(_consists_of(name, ABOUT_WORDS) for name in path[:-1])}
    labels = {path[-1] for path in paths if path not in about}
    if parts := sorted(path for path in about if path[-1] in labels):  # mask/cloth beside no_mask is none
        return f"images in {_few('/'.join(path) for path in parts)}, {ANNOTATIONS}"
    if all(path[-1].isdecimal() for path in nested) and not all(path[0].isdecimal() for path in paths):
        return f"numbers as names in {_few(path[0] for path in nested)}"
    return ""


def _few(names: Iterable[str]) -> str:
    """Lists a few different names."""
    listed = [name for name, _ in groupby(sorted(names))]
    return " and ".join(listed[:2]) if len(listed) < 3 else f"{', '.join(listed[:2])} and {len(listed) - 2} more"
