"""What decides the numbers of a feature file, and the comparison of two of them."""

from bilinear_cli.recipe.comparison import (
    PRECISION_ATTRIBUTES,
    Difference,
    check_same,
    differences,
    mixed_engines,
    mixed_with,
)
from bilinear_cli.recipe.geometry import (
    FILTERS,
    MAX_MARGIN,
    PROCESSOR,
    CropOptions,
    ProcessorResize,
    parse_crop,
    parse_processor_resize,
    processor_resize,
)
from bilinear_cli.recipe.recipe import CHOICES, ENGINE, SRGB, UNSHARDED, Recipe
from bilinear_cli.recipe.views import MAX_SIZE, View, distinct_sizes, parse_views, view_names

__all__ = [
    "CHOICES",
    "ENGINE",
    "FILTERS",
    "MAX_MARGIN",
    "MAX_SIZE",
    "PRECISION_ATTRIBUTES",
    "PROCESSOR",
    "SRGB",
    "UNSHARDED",
    "CropOptions",
    "Difference",
    "ProcessorResize",
    "Recipe",
    "View",
    "check_same",
    "differences",
    "distinct_sizes",
    "mixed_engines",
    "mixed_with",
    "parse_crop",
    "parse_processor_resize",
    "parse_views",
    "processor_resize",
    "view_names",
]
