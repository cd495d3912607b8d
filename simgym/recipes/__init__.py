"""Training recipes for those who have no clone: `simgym recipe`."""

from simgym.recipes.copying import RECIPES, copy_recipe, recipe_files

__all__ = ["RECIPES", "copy_recipe", "recipe_files"]
