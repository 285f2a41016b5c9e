"""Names of what an export can be."""

from typing import Literal

Format = Literal["jsonl", "parquet", "trl", "llamafactory", "axolotl"]
Order = Literal["pool", "rank"]
