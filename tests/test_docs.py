"""Links, public names, arguments and files in the documentation exist. `test_pages.py` runs its code."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import Study, experiment

import neurocnn as nc
from neurocnn import errors

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FILE = r"[\w.~/-]*\w\.(?:py|tsv|json|txt|toml|png|nii\.gz|pth\.tar)\b"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, kinds: str) -> str:
    """Return the code of the fenced blocks whose info string matches `kinds`, joined."""
    return "\n".join(re.findall(rf"```(?:{kinds})\b[^\n]*\n(.*?)```", read(page), re.DOTALL))


def inline(page: Path) -> list[str]:
    """Return the code between backticks in the text of a page."""
    text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


@each_page
def test_the_targets_of_links_exist(page: Path):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", read(page))
    missing = [name for name in targets if "://" not in name and not (page.parent / name).exists()]
    assert not missing


@each_page
def test_code_uses_public_names_only(page: Path):
    code = "\n".join([blocks(page, "python"), *inline(page)])
    assert set(re.findall(r"\bnc\.(\w+)", code)) <= {*dir(nc), "__version__"}


CLASSES = {"experiment": nc.Experiment, "results": nc.Results, "trainer": nc.Trainer, "caps": nc.Caps}


def _called(function: ast.expr) -> object:
    """Return the public function of a call in the text; None for functions of other libraries."""
    match function:
        case ast.Name(id=name):
            return getattr(nc, name, getattr(nc.Experiment, name, None))
        case ast.Attribute(value=ast.Call(func=maker), attr=name) if _called(maker) in (
            nc.Experiment,
            nc.Experiment.load,
        ):
            return getattr(nc.Experiment, name)
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="nc"), attr=owner), attr=name):
            return getattr(getattr(nc, owner), name)
        case ast.Attribute(value=ast.Name(id="nc"), attr=name):
            return getattr(nc, name)
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            of = CLASSES.get(owner, getattr(nc, owner, None))
            return None if of is None else getattr(of, name)
    return None


def _calls(page: Path) -> Iterator[ast.Call]:
    for code in inline(page):
        try:
            tree = ast.parse(code.replace("…", "..."))
        except SyntaxError:
            continue  # file names, shell commands, formulas
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


@each_page
def test_calls_in_the_text_pass_existing_arguments(page: Path):
    for call in _calls(page):
        function = _called(call.func)
        if function is None:
            continue
        parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            continue
        assert {keyword.arg for keyword in call.keywords} <= set(parameters), ast.unparse(call)


def test_calls_in_the_text_are_found():
    found = {ast.unparse(call.func) for page in PAGES for call in _calls(page) if _called(call.func)}
    assert {"caps.prepare", "nc.create_model", "Caps", "run", "experiment.run"} <= found


@each_page
def test_files_in_commands_and_python_files_in_the_text_exist(page: Path):
    """A script that the reader writes counts as existing if a block of code begins with its name."""
    own = {
        name for each in PAGES for name in re.findall(r"(?m)^# (?:\w+/)*(\w+\.py)", blocks(each, "python"))
    }
    named = set(re.findall(FILE, blocks(page, "sh|bash|toml")))
    named |= {name for code in inline(page) for name in re.findall(r"[\w/]+\.py\b", code)}
    there = [ROOT, ROOT / "src/neurocnn", page.parent]
    missing = {name for name in named - own if not any((folder / name).exists() for folder in there)}
    assert not missing


def test_a_result_folder_contains_the_files_that_the_page_shows(study: Study, tmp_path: Path):
    page = ROOT / "docs/concepts/result-folder.md"
    tree = re.search(r"```\n(results\n.*?)```", read(page), re.DOTALL)[1]  # type: ignore[index]
    drawn = set(re.findall(r"[\w.]+\.(?:tsv|json|txt|pth\.tar)", tree)) | {"part_balanced_accuracy.nii.gz"}
    experiment(study).run(tmp_path / "results", splits=[0]).vote()
    there = {path.name for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert drawn <= there
    # All other files belong to the training set or to tensorboard.
    rest = {name for name in there - drawn if not name.startswith("events.out.tfevents.")}
    assert rest == {name.replace("validation_", "train_") for name in drawn if name.startswith("validation_")}


def test_every_public_name_has_a_docstring():
    missing = [name for name in nc.__all__ if not (getattr(nc, name).__doc__ or "").strip()]
    assert nc.__all__ == sorted(nc.__all__)
    assert not missing


def test_the_docstring_of_the_package_lists_every_public_name_in_40_lines():
    text = nc.__doc__.partition("by the step of a study:")[2].partition("``help")[0]  # type: ignore[union-attr]
    named = set(re.findall(r"\b\w+\b", text))
    assert set(nc.__all__) <= named
    assert len(nc.__doc__.splitlines()) <= 40  # type: ignore[union-attr]
    # All words that look like names of code must be public names.
    code_like = {name for name in named if "_" in name or re.search(r"[a-z\d][A-Z]", name)}
    assert code_like <= set(nc.__all__)


def test_dir_of_the_package_lists_only_public_names_and_plotting():
    assert dir(nc) == sorted([*nc.__all__, "plotting"])
    assert dir(nc.plotting) == sorted(nc.plotting.__all__)


def test_plotting_is_imported_on_first_use():
    code = (
        "import sys, neurocnn as nc\n"
        "assert not {'matplotlib', 'neurocnn.plotting'} & set(sys.modules)\n"
        "print(nc.plotting.roc.__name__)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "roc\n"


def test_an_unknown_name_of_the_package_suggests_a_similar_one():
    with pytest.raises(AttributeError, match="'Cap'; did you mean 'Caps'"):
        _ = nc.Cap


def test_every_kind_of_error_is_public():
    kinds = {
        name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)
    }
    assert kinds <= set(nc.__all__)


#: Options of ClinicaDL 0.2.1 and 1.6.
CLINICADL_OPTIONS = """
--accumulation_steps --ad_subtypes_distribution --adaptive_learning_rate --amp/--no-amp --anomaly_degree
--architecture --atrophy_percent --baseline --baseline/--longitudinal --batch_size
--calculate_emissions/--dont_calculate_emissions --caps_dir --caps_directory --caps_target
--categorical_split_variable --cn_subtypes_distribution --compensation --config_file
--contrast/--no-contrast --custom_suffix --data_augmentation --deterministic
--deterministic/--nondeterministic --diagnoses --diagnosis --discarded_slices --dropout --dti_measure
--dti_space --epochs --evaluation_steps --extract_json --fully_sharded_data_parallel --gamma
--gpu/--no-gpu --help --ignore_demographics --image_size --input_size --keep_smc --keep_true --label
--labels_list --learning_rate --level_grad_cam --logname --loss --mask_path --mean --merged-tsv
--merged_tsv --missing_mods --modality --model_layers --motion/--no-motion --multi --multi-diagnoses
--multi_cohort --multi_cohort/--single_cohort --multi_network/--single_network --n_proc --n_procs
--n_splits --n_subjects --n_test --n_validation --nb_unfrozen_layer --network --nifti_template_path
--no_labels --no_mci_sub_categories --noise/--no-noise --noise_std --normalize/--unnormalize --nproc
--num_transforms --optimizer --overwrite --overwrite_name --p_age_threshold --p_sex_threshold
--participants_tsv --patch_size --pathology --patience --preprocessing --preprocessing_dict_target
--profiler/--no-profiler --remove_unique_session --restriction_path --restriction_tsv
--roi_custom_mask_pattern --roi_custom_template --roi_list --roi_uncrop_output --rotation --sampler
--save_all_models/--save_only_best_model --save_features --save_individual --save_latent_tensor
--save_nifti --save_tensor --seed --selection --selection_metrics --selection_threshold --sigma
--skip_leak_check --slice_direction --slice_mode --smoothing --smoothing/--no-smoothing --split
--ssda_network --ssda_network/--single_network --stratification --stride_size --subjects_sessions_tsv
--subset_name --suvr_reference_region --target_diagnosis --target_node --test_tsv --threshold
--time_horizon --tolerance --tracer --track_exp --transfer_learning_path --transfer_learning_selection
--transfer_path --transfer_selection_metric --translation --tsv_path --tsv_target_lab --tsv_target_unlab
--uncropped_roi --unnormalize --use_cpu --use_extracted_features --use_extracted_patches
--use_extracted_roi --use_extracted_slices --use_labels/--no_labels --use_tensor --use_uncropped_image
--valid_longitudinal/--valid_baseline --validation_type --variables_of_interest --verbose --version
--visualization --vmax --weight_decay --working_directory -cpu -h -v --MCI_sub_categories --multi-cohort
--AD_subtypes_distribution --CN_subtypes_distribution
"""


CLINICADL = ROOT / "docs/how-to/start-from-clinicadl.md"
#: Command lines of the tutorials, and the other commands of ClinicaDL 0.2.1 and 1.6.
CLINICADL_COMMANDS = {
    *(
        f"train {parts} {kind}"
        for parts in ("slice", "patch", "roi")
        for kind in ("autoencoder", "cnn", "multicnn")
    ),
    *(
        "train image autoencoder",
        "train image cnn",
        "train classification",
        "train regression",
        "train reconstruction",
    ),
    *(
        "train from_json",
        "train resume",
        "train list_models",
        "retrain",
        "predict",
        "classify",
        "random-search",
    ),
    *("interpret", "interpret group", "interpret individual", "extract", "preprocessing run"),
    *(f"prepare-data {parts}" for parts in ("image", "patch", "slice", "roi")),
    *("prepare-data-from-bids", "preprocessing extract-tensor", "hugging-face push", "hugging-face pull"),
    *(f"generate {kind}" for kind in ("trivial", "random", "shepplogan", "hypometabolic", "artifacts")),
    *(f"quality-check {kind}" for kind in ("t1-linear", "t1-volume", "pet-linear")),
    *(f"tsvtools {name}" for name in ("get-labels", "get-metadata", "get-progression", "prepare-experiment")),
    *(f"{tool} {name}" for tool in ("tsvtool", "tsvtools") for name in ("split", "kfold", "analysis")),
    *("tsvtool getlabels", "tsvtool restrict", "tsvtools adapt"),
}
#: Planned public names that will replace a command: the owner of the name, and the name.
COMING = {
    "random-search": (nc, "search"),
    "interpret group": (nc.Results, "explain"),
    "quality-check t1-linear": (nc.Caps, "check"),
}


def clinicadl_rows() -> list[list[str]]:
    page = read(CLINICADL).partition("## Weights")[0]
    return [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]


def test_the_page_on_clinicadl_lists_every_command_and_option():
    named = [name for row in clinicadl_rows() for name in re.findall(r"`([^`]+)`", row[0])]
    assert len(set(named)) == len(named)
    commands = {re.sub(r" (…|<).*", "", name) for name in named}
    assert set(CLINICADL_OPTIONS.split()) <= set(named)
    assert commands >= CLINICADL_COMMANDS
    for row in clinicadl_rows():
        assert len(row) == 3, row
        assert "`" in row[1] or row[1].strip() in {"none", "not available yet"}, row


def test_every_call_on_the_page_on_clinicadl_has_all_required_arguments():
    own = {
        "merge",
        "isin",
        "basicConfig",
        "replace",
        "help",
        "Compose",
        "Resize",
        "groupby",
        "transform",
        "loguniform",
    }
    calls = list(_calls(CLINICADL))
    for call in calls:
        function = _called(call.func)
        if function is None:
            assert ast.unparse(call.func).split(".")[-1] in own, ast.unparse(call)
            continue
        given = [None] * isinstance(call.func, ast.Attribute) * _is_method(function) + call.args
        inspect.signature(function).bind(*given, **{keyword.arg: None for keyword in call.keywords})  # type: ignore[arg-type]
    assert len(calls) > 100


def _is_method(function: object) -> bool:
    return inspect.isfunction(function) and "self" in inspect.signature(function).parameters


def test_commands_are_marked_as_not_available_until_their_call_exists():
    answers = {name: row[1].strip() for row in clinicadl_rows() for name in re.findall(r"`([^`]+)`", row[0])}
    for command, (owner, name) in COMING.items():
        assert (answers[command] == "not available yet") == (not hasattr(owner, name)), command
