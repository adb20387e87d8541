"""What the irregular-csv task says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ssm_core.plugin.config import config
from ssm_core.plugin.spec import TaskSpec


@config
class IrregularCsvConfig:
    """Knobs of the irregular-csv task.

    Attributes:
        path: The table: a .csv file, or a .csv.gz, whose first line names the columns.
        delimiter: What stands between columns.
        id_column: Column that says which series a row belongs to. The rows of a series stand together.
        time_column: Column of times: numbers, or dates (ISO 8601), which become seconds. They increase in a series.
        value_columns: Columns of what is seen; by default all that have no other part. An empty cell is a missing
            value.
        target_columns: Columns of what is asked for; one column if it is a class. Nothing is asked where a cell is
            empty.
        split_column: Column that says train, validation or test, the same in all rows of a series. Without one, series
            are dealt out by the seed.
        target: What is asked for: numbers ("value") or a class.
        per: Whether each element has a target, or each series: then all rows of a series have the same one.
        classes: Names of the classes, in the order of their numbers; by default those of the training split, sorted.
        validation: Share of the series for validation, without a split column.
        test: Share of the series for testing, without a split column.
        seed: Seed of the draw of series.
        time: What the model is told of the gaps. "true": the gap before each element as dt; "ignored": nothing;
            "appended": the gap as one more channel.
        unit: Gap that counts as one step, in the unit of the time column (seconds for dates); by default the
            training split's median gap.
        missing: What stands where a value is missing: the column's mean ("mask") or the last value seen ("forward").
            Either way, if any value is missing, every column gets a second one that tells.
        scaled: Subtract each column's mean and divide by its deviation, both of the training split.
        pooling: With per = series, how features of all elements become one.
        cache: Folder of made data; by default the one that SSM_DATA_DIR names, else ~/.cache/ssm/data.
    """

    path: Path | None = None
    delimiter: str = ","
    id_column: str = "id"
    time_column: str = "time"
    value_columns: tuple[str, ...] = ()
    target_columns: tuple[str, ...] = ("target",)
    split_column: str = ""
    target: Literal["value", "class"] = "value"
    per: Literal["element", "series"] = "element"
    classes: tuple[str, ...] = ()
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    time: Literal["true", "ignored", "appended"] = "true"
    unit: float | None = None
    missing: Literal["mask", "forward"] = "mask"
    scaled: bool = True
    pooling: Literal["mean", "last", "first", "max"] = "mean"
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Check the ranges, and that every column has one part.

        Raises:
            ValueError: If a knob is out of its range, or contradicts another.
        """
        named = [self.id_column, self.time_column, *self.target_columns]
        if not all((*named, *self.value_columns)) or not self.target_columns:
            raise ValueError("id_column, time_column and target_columns have to name columns")
        named += [self.split_column] if self.split_column else []
        # A column may be seen and asked for, as when its own future is foretold; no other may have two parts.
        named += [name for name in self.value_columns if name not in self.target_columns]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"the column {twice[0]} has two parts")
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ValueError(f"delimiter = {self.delimiter!r} has to be one character, such as ; or a tab")
        if self.target == "class" and len(self.target_columns) != 1:
            raise ValueError("a class stands in one column: target_columns names more")
        if self.classes and (self.target != "class" or len(set(self.classes)) != len(self.classes)):
            raise ValueError("classes go with target = class, each named once")
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            raise ValueError("validation and test have to be above 0, and leave something to train on")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed} is negative")
        if self.unit is not None and self.unit <= 0:
            raise ValueError(f"unit = {self.unit} has to be above 0")


SPEC = TaskSpec(
    api=1,
    name="irregular-csv",
    summary="your own series with real time stamps, from a .csv table: numbers or classes, by element or series",
    config=IrregularCsvConfig,
    build="ssm_data.irregular_csv.task:build",
)
