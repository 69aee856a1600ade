"""Words of the files in which families list their released models (`families/<family>/releases.yaml`)."""

from __future__ import annotations

from omnimix.config import Spec


class ReleaseFamily(Spec):
    """What the releases of a family share.

    Attributes:
        title: its name in print.
        paper, arxiv: the paper's title and number; None where there is none.
        licence: that its model cards state; None where none is stated.
        repo: on the hub, where all releases share one.
        files: that a release needs, as patterns inside its folder.
        reader: the row of `registry.CHECKPOINTS` that opens it, where that has another name.
        folder: inside the repository, where a release names none; `{id}` stands for its id.
        procedure: how they were trained, where a release says nothing else.
        width: bytes of a number in the files, which the size of a release follows from.
    """

    title: str
    paper: str | None
    arxiv: str | None
    licence: str | None
    repo: str = ""
    files: tuple[str, ...]
    reader: str | None = None
    folder: str = ""
    procedure: str | None = None
    width: int | None = None


class ReleasedEncoder(Spec):
    """An encoder by the family's own name.

    Attributes:
        title: its name in print.
        size: side of a tile in pixels.
        width: of its features (of all encoders of a pair together).
        parts: hub ids of the weights that a checkpoint does not hold, by the part's name.
    """

    title: str
    size: int | None = None
    width: int | None = None
    parts: dict[str, str] = {}


class ReleasedLanguage(Spec):
    """A language model by the family's own name.

    Attributes:
        title: its name in print.
        parameters: as checkpoints hold it, embeddings resized.
        hub: where its configuration and tokenizer (and weights, where a release has none) come from.
        width: of its embeddings.
        licence: of its weights, a name of the file's `licences`.
    """

    title: str
    width: int
    parameters: int | None = None
    licence: str
    hub: str | None = None


class Row(Spec):
    """A released model as the file writes it; see `releases.Released` for the words.

    Attributes:
        id: what `omnimix.load` takes.
        title, names: its name in print, and further names it is found by.
        repo, folder, files: on the hub, inside the repository, and the patterns that must be there; None
            takes the family's.
        encoder, language: its parts, by the names of this file.
        connector, resize: words of the family for the connector and the preparation of pictures.
        data, epochs, procedure: what it was trained on and how, where published.
        parameters, bytes: of the release's own files; None where unknown.
        note: what a user should know.
    """

    id: str
    title: str
    names: tuple[str, ...] = ()
    repo: str | None = None
    folder: str | None = None
    files: tuple[str, ...] | None = None
    encoder: str
    language: str
    connector: str
    resize: str | None = None
    data: str | None = None
    epochs: float | None = None
    procedure: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    note: str | None = None


class Wing(Spec):
    """A file of releases.

    Attributes:
        families: what releases share, by family.
        encoders, languages: parts by the family's own names; `parts` of an encoder are those that a
            checkpoint does not hold.
        licences: see `omnimix.checkpoints.licences`.
        releases: the rows, by family.
    """

    families: dict[str, ReleaseFamily]
    encoders: dict[str, ReleasedEncoder]
    languages: dict[str, ReleasedLanguage]
    licences: dict[str, str] = {}
    releases: dict[str, tuple[Row, ...]]
