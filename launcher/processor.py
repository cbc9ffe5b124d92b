"""What turns texts, pictures or sounds into a model's inputs: a tokenizer, an image processor or a feature extractor."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import transformers

from launcher import image_size, model_init
from launcher.data.digest import file_digest
from launcher.errors import EnvironmentProblem, RecipeError
from launcher.recipe import Recipe
from launcher.task import Traits

AUTO_CLASSES = {
    "tokenizer": "AutoTokenizer",
    "image_processor": "AutoImageProcessor",
    "feature_extractor": "AutoFeatureExtractor",
}


def load(recipe: Recipe, traits: Traits) -> Any:
    """The processor of the recipe's model, with what the recipe changes of it."""
    return (
        load_tokenizer(recipe, traits.fast_tokenizer) if traits.processor == "tokenizer" else _of_model(recipe, traits)
    )


def from_folder(folder: Path, traits: Traits) -> Any:
    """As an export holds it."""
    return getattr(transformers, AUTO_CLASSES[traits.processor]).from_pretrained(folder, **_options(traits))


def load_tokenizer(recipe: Recipe, insist_on_fast: bool = True) -> Any:
    """The tokenizer with what the recipe adds to it. Only fast tokenizers know where in the text a token stands."""
    name = recipe.tokenizer.name_or_path or recipe.model.name_or_path
    if name is None:
        raise RecipeError("a model from model.init has no tokenizer of its own", fix="set tokenizer.name_or_path")
    options = (
        {"revision": recipe.model.revision} if recipe.tokenizer.name_or_path is None and recipe.model.revision else {}
    )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            name, trust_remote_code=recipe.model.trust_remote_code, **options
        )
    except (OSError, ValueError, ImportError) as error:  # some need a package that is not installed
        raise EnvironmentProblem(f"the tokenizer cannot be loaded: {_first_line(error)}", where=str(name)) from error
    if insist_on_fast and not tokenizer.is_fast:
        raise EnvironmentProblem(
            "this model has only a slow tokenizer", where=str(name), fix="convert it to tokenizer.json"
        )
    if recipe.tokenizer.add_tokens:
        tokenizer.add_tokens(list(recipe.tokenizer.add_tokens))
    if recipe.tokenizer.pad_token:
        tokenizer.pad_token = recipe.tokenizer.pad_token
    if recipe.tokenizer.chat_template:
        tokenizer.chat_template = _text_of(recipe.tokenizer.chat_template)
    return tokenizer


def tokenizer_of(processor: Any) -> Any:
    """The processor if it is a tokenizer, else None: there is no vocabulary then."""
    return processor if isinstance(processor, transformers.PreTrainedTokenizerBase) else None


def pad_token_id(processor: Any) -> int:
    """What fills a batch. Padding is masked and never a target, so any token does where the tokenizer names none."""
    names = ("pad_token_id", "eos_token_id")
    return next((i for i in (getattr(processor, name, None) for name in names) if i is not None), 0)


def ingredients(processor: Any) -> list[Any]:
    """All that decides what it makes of an input, as JSON."""
    if tokenizer_of(processor) is None:
        return [processor.to_dict()]
    if processor.is_fast:
        processor.backend_tokenizer.no_truncation()  # as the last call set them, whichever that was
        processor.backend_tokenizer.no_padding()
    words = processor.backend_tokenizer.to_str() if processor.is_fast else _files_of(processor)
    return [words, processor.chat_template, dict(processor.special_tokens_map)]


def digest(processor: Any) -> str:
    said = json.dumps(ingredients(processor), sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def _files_of(tokenizer: Any) -> list[list[str]]:
    """[name, hash] of each file that a slow tokenizer is saved as."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return [[path.name, file_digest(path)] for path in sorted(Path(folder).iterdir())]


def _of_model(recipe: Recipe, traits: Traits) -> Any:
    """An image processor or a feature extractor: the pretrained model's, or what is usual for a model from model.init."""
    verbosity = transformers.utils.logging.get_verbosity()
    try:
        transformers.utils.logging.set_verbosity_error()  # that there is no torchvision, which was not asked for
        found = _of_type(recipe, traits) if recipe.model.name_or_path is None else _of_files(recipe.model, traits)
    except (OSError, ValueError, ImportError) as error:
        raise EnvironmentProblem(
            f"the {_kind(traits)} cannot be loaded: {_first_line(error)}",
            where=recipe.model.name_or_path or "model.init",
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    return image_size.fitted(found, recipe, traits) if traits.processor == "image_processor" else found


def _of_files(section: Any, traits: Traits) -> Any:
    revision = {"revision": section.revision} if section.revision else {}
    return getattr(transformers, AUTO_CLASSES[traits.processor]).from_pretrained(
        section.name_or_path, trust_remote_code=section.trust_remote_code, **revision, **_options(traits)
    )


def _of_type(recipe: Recipe, traits: Traits) -> Any:
    """With the defaults of its class."""
    model_type = model_init.values(recipe.model.init).get("model_type")
    known = _class_names(traits)
    if model_type not in known:
        raise RecipeError(
            f"transformers knows no {_kind(traits)} for a model of type {model_type}",
            where=recipe.origin("model.init"),
            fix="use another model_type, or a pretrained model that brings one",
        )
    return getattr(transformers, known[model_type])()


def _kind(traits: Traits) -> str:
    return traits.processor.replace("_", " ")


def _class_names(traits: Traits) -> dict[str, str]:
    """Type of model -> class of its processor, of those that need nothing but PIL."""
    if traits.processor == "feature_extractor":
        from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

        return dict(FEATURE_EXTRACTOR_MAPPING_NAMES)
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    classes = {name: of_backend.get("pil") for name, of_backend in IMAGE_PROCESSOR_MAPPING_NAMES.items()}
    return {name: found for name, found in classes.items() if found is not None}


def _options(traits: Traits) -> dict[str, str]:
    """PIL's pixels, whether torchvision, which makes others, is installed or not."""
    return {"backend": "pil"} if traits.processor == "image_processor" else {}


def _text_of(template: str) -> str:
    path = Path(template)
    is_file = "{" not in template and path.is_file()
    return path.read_text(encoding="utf-8") if is_file else template


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
