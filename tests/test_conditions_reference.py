"""The committed tables of trainings with snapshots, and of other recipes: every verdict is computed anew from them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from ebe_utils.study.cases import (
    CLAIMS,
    KINDS,
    RECIPE,
    all_cases,
    score_recipes,
    verdicts_in_three_parts,
    when_claims_hold,
)
from ebe_utils.study.claims import judge_claims
from ebe_utils.study.condition_figures import over_epochs, variance_figure
from ebe_utils.study.conditions import (
    kept_recipes,
    kept_shortcuts,
    kept_snapshots,
    layer_15_table,
    leads,
    recipes_table,
    steadiness,
)
from ebe_utils.study.recipes import READINGS, RECIPES
from ebe_utils.study.run import Run
from ebe_utils.study.shortcuts import SECOND
from ebe_utils.study.snapshots import AVERAGE, EPOCHS, read_together, verdicts_over
from ebe_utils.upkeep.committed import REFERENCE
from ebe_utils.upkeep.conditions import LAYERS

FOLDERS = sorted((REFERENCE / "snapshots").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
class TestSnapshots:
    def test_the_last_ten_epochs_and_their_average_are_there(self, folder):
        there = list(read_together(folder / "together.csv.gz"))
        assert {*map(str, range(51, 61)), AVERAGE, "1"} <= set(there) <= {*map(str, EPOCHS), AVERAGE}
        for name in ("layers", "geometry", "verdicts"):
            table = pd.read_csv(folder / f"{name}.csv", dtype={"snapshot": str})
            assert list(dict.fromkeys(table["snapshot"])) == there

    def test_every_verdict_follows_from_the_counts(self, folder):
        verdicts = pd.read_csv(folder / "verdicts.csv", dtype={"snapshot": str, "claim": str})
        again = verdicts_over(read_together(folder / "together.csv.gz"), folder.name.split("-")[0])
        said = ["snapshot", "claim", "verdict"]
        pd.testing.assert_frame_equal(verdicts[said], again[said])
        np.testing.assert_allclose(verdicts[["measured", "low", "high"]], again[["measured", "low", "high"]], atol=1e-4)

    def test_accuracies_are_those_of_the_counts(self, folder):
        layers = pd.read_csv(folder / "layers.csv", dtype={"snapshot": str})
        for snapshot, together in read_together(folder / "together.csv.gz").items():
            n = together.loc["all", "all"]
            assert n == 10_000
            part = layers[layers["snapshot"] == snapshot]
            assert (part["network_accuracy"] - together.loc["network", "all"] / n).abs().max() < 1e-4
            counts = [together.loc["all", f"{row.layer}/{row.k}"] for row in part.itertuples()]
            np.testing.assert_allclose(part["accuracy"], np.array(counts) / n, atol=1e-4)
            # Same answer on all images = the same right ones, and the same mistakes.
            both = [together.loc["network", f"{row.layer}/{row.k}"] for row in part.itertuples()]
            agreement = np.array(both) / n + part["where wrong"] * (1 - part["network_accuracy"])
            np.testing.assert_allclose(part["agreement"], agreement, atol=2e-4)

    def test_geometry_is_possible_and_its_votes_are_near_the_sweeps(self, folder):
        geometry = pd.read_csv(folder / "geometry.csv", dtype={"snapshot": str})
        layers = pd.read_csv(folder / "layers.csv", dtype={"snapshot": str}).query("k == 10")
        assert set(geometry["layer"]) == set(LAYERS)
        columns = ["common", "top", "between", "raw", "centred", "removed", "whitened"]
        assert geometry[columns].stack().between(0, 1).all()
        both = geometry.merge(layers, on=["snapshot", "layer"])
        # A twelfth of the training images and a tenth of the test images: the same picture, not the same numbers.
        assert both["raw"].corr(both["accuracy"]) > 0.8


def test_counts_of_claims_are_those_of_the_tables():
    verdicts, recipes = kept_snapshots("verdicts"), kept_recipes("claims")
    table = when_claims_hold(all_cases(Run.kept(REFERENCE).values(), verdicts, recipes))
    assert {text.split(":")[0] for text in table["claim"]} == set(CLAIMS)
    for row in table.to_dict("records"):
        claim, dataset = row["claim"].split(":")[0], row["data set"]
        part = verdicts[(verdicts["claim"] == claim) & verdicts["run"].str.startswith(dataset)]
        epochs = part[part["snapshot"] != AVERAGE]["verdict"]
        expected = " / ".join(str(int((epochs == kind).sum())) for kind in KINDS) if len(epochs) else "–"
        assert row["while training"] == expected
        whole = [run for run in Run.kept(REFERENCE).values()
                 if run.parameters.profile == "paper" and run.parameters.dataset == dataset]
        assert sum(map(int, row["at the recipe"].split(" / "))) == len(whole)


def test_verdicts_in_three_parts_are_those_of_the_tables():
    verdicts, recipes = kept_snapshots("verdicts"), kept_recipes("claims")
    runs = [run for run in Run.kept(REFERENCE).values() if run.parameters.profile == "paper"]
    table = verdicts_in_three_parts(all_cases(runs, verdicts, recipes))
    assert {text.split(":")[0] for text in table["claim"]} == set(CLAIMS)
    for row in table.to_dict("records"):
        claim, dataset = row["claim"].split(":")[0], row["data set"]
        of = [judge_claims(pd.read_csv(run.file(run.parameters.sweep_step, "together.csv"), index_col=0),
                           dataset).set_index("claim")["verdict"][claim] for run in runs
              if run.parameters.dataset == dataset]
        assert row["at the paper's recipe"] == ", ".join(
            f"{kind} ({of.count(kind)} of {len(of)})" for kind in KINDS if kind in of)
        last = verdicts[(verdicts["claim"] == claim) & verdicts["run"].str.startswith(dataset)
                        & (verdicts["snapshot"] == "60")]["verdict"]
        others = recipes[(recipes["claim"] == claim) & (recipes["dataset"] == dataset)
                         & (recipes["reading"] == "as here")]["verdict"]
        ends = [*of, *last, *others]
        low, high = wilson(ends.count("holds"), len(ends))
        assert row["how sure"] == (f"{100 * ends.count('holds') / len(ends):.0f} % ({100 * low:.0f} to "
                                   f"{100 * high:.0f}) of {len(ends)}")


def wilson(hits, n):
    """Wilson's interval, written out."""
    p, z = hits / n, norm.ppf(0.975)
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def case(claim="8", verdict="holds", condition="", training="a", source="while training", ends=False, dataset="mnist"):
    return {"claim": claim, "dataset": dataset, "verdict": verdict, "training": training, "source": source,
            "condition": condition, "ends": ends}


def test_three_parts_by_hand():
    whole = {"source": RECIPE, "condition": "60 epochs, whole data", "ends": True}
    table = verdicts_in_three_parts(pd.DataFrame([
        case(**whole), case(verdict="undecided", training="b", **whole),
        case(condition="SGD", ends=True, training="c"), case(condition="SGD", training="d", verdict="does not hold"),
        case(condition="early"), case(condition="early"), case(condition="early", verdict="undecided"),
        case(condition="late", verdict="does not hold"), case(verdict="undecided"),
        case("6", dataset="cifar10"), case("6", dataset="cifar10", ends=True)]))
    assert table.to_dict("records") == [
        {"claim": "6: layer 15 drops", "data set": "cifar10", "at the paper's recipe": "no run",
         "holds when": "always (2 cases)", "does not hold when": "never (2 cases)",
         "how sure": "100 % (21 to 100) of 1"},
        {"claim": "8: ten examples lose no accuracy", "data set": "mnist",
         "at the paper's recipe": "holds (1 of 2), undecided (1 of 2)", "holds when": "early (2 of 3)",
         "does not hold when": "late", "how sure": "67 % (21 to 94) of 3"}]


def test_cases_say_what_is_not_as_in_the_whole_runs():
    snapshots = pd.DataFrame({"run": "mnist-paper-seed3", "snapshot": ["1", "8", "60", AVERAGE, "2"], "claim": "8",
                              "verdict": ["holds", "undecided", "holds", "holds", "does not apply"]})
    recipes = pd.DataFrame({"recipe": ["as here", "SGD", "as here", "SGD"], "dataset": "mnist", "seed": 1, "claim": "4",
                            "reading": ["as here", "as here", "pooled", "pooled"], "verdict": "undecided"})
    cases = all_cases([], snapshots, recipes)
    assert cases["condition"].tolist() == ["epochs 1 to 5", "epochs 6 to 20", "epochs 21 to 60", "averaged weights",
                                           "a part of the data", "SGD", "pooled", ""]
    assert cases["ends"].tolist() == [False, False, True, False, True, True, False, False]
    assert cases["training"].tolist() == ["mnist-paper-seed3"] * 4 + ["mnist-as here-1", "mnist-SGD-1"] * 2
    assert set(cases["dataset"]) == {"mnist"}


def test_recipes_are_scored_beside_chance():
    def rows(recipe, verdicts, **about):
        return [{"recipe": recipe, "reading": "as here", "dataset": "mnist", "seed": 0, "claim": claim,
                 "verdict": verdict} | about for claim, verdict in zip("12345", verdicts, strict=False)]

    yes, no, other = "holds", "does not hold", "does not apply"
    table = pd.DataFrame([*rows("a", [yes, no, no, other]), *rows("b", [yes, yes, yes, other]),
                          *rows("c", [no, "undecided", no, other]), *rows("partly", [yes, yes])])
    found = score_recipes(table, draws=4000).set_index("recipe")
    assert found["hold"].to_dict() == {"b": 3, "a": 1, "c": 0} and (found["of"] == 3).all()
    # Claim 1 holds in two of three places, claims 2 and 3 in one each: every way to deal them.
    dealt = [np.bincount([*pair, x, y], minlength=3).max() for pair in ((0, 1), (0, 2), (1, 2)) for x in range(3)
             for y in range(3)]
    assert found.loc["b", "at least"] == pytest.approx(np.mean(np.array(dealt) >= 3), abs=0.03)
    assert found.loc["a", "at least"] == 1 and found["expected"].iloc[0] == pytest.approx(np.mean(dealt), abs=0.03)
    # A second seed of one recipe adds nothing to the comparison, one of all of them does.
    more = pd.concat([table, pd.DataFrame(rows("a", [yes, yes, yes, other], seed=1))])
    pd.testing.assert_frame_equal(score_recipes(more, draws=4000).set_index("recipe"), found)
    more = pd.concat([more, *[pd.DataFrame(rows(one, [no, yes, no, other], seed=1)) for one in "bc"]])
    found = score_recipes(more, draws=10).set_index("recipe")
    assert found["hold"].to_dict() == {"b": 4, "a": 4, "c": 1} and (found["of"] == 6).all()


def test_readings_of_one_network_are_dealt_together():
    """Two recipes with the same verdict in both readings: the best has always one claim of each that holds anywhere."""
    table = pd.DataFrame([
        {"recipe": recipe, "reading": reading, "dataset": "mnist", "seed": 0, "claim": claim,
         "verdict": "holds" if recipe == holds else "undecided"}
        for recipe in "ab" for reading in ("one", "two") for claim, holds in (("1a", "a"), ("3", "b"), ("4", "a"))])
    found = score_recipes(table, draws=2000)
    # Dealt to two recipes, three claims are 3 : 0 in two of eight cases and 2 : 1 in six, whatever the reading.
    assert found["expected"].iloc[0] == pytest.approx(2.25, abs=0.03) and found["hold"].tolist() == [2, 2, 1, 1]
    partly = table[(table["recipe"] == "a") | (table["reading"] == "one")]
    assert set(score_recipes(partly, draws=5)["recipe"]) == {"a"}


def test_leads_and_steadiness_are_hand_counts():
    layers = kept_snapshots("layers")
    folder = FOLDERS[-1].name
    part = layers[(layers["run"] == folder) & (layers["k"] == 10) & (layers["layer"] > 0)]
    last = part[part["snapshot"] == "60"]
    row = leads(layers).query("run == @folder and snapshot == '60'").iloc[0]
    assert row["ahead"] == sum(last["accuracy"] > last["network_accuracy"])
    late = part[part["snapshot"].isin(list(map(str, range(51, 61))))]
    at_14 = late[late["layer"] == 14]
    steady = steadiness(layers).set_index("run").loc[folder]
    assert steady["network"] == pytest.approx(100 * np.std(at_14["network_accuracy"], ddof=1))
    assert steady["layer 14"] == pytest.approx(100 * np.std(at_14["accuracy"], ddof=1))
    mean = part.loc[part["snapshot"] == AVERAGE, "network_accuracy"].iloc[0]
    assert steady["averaged"] == pytest.approx(100 * (mean - at_14["network_accuracy"].mean()))


def test_what_the_text_says_of_layer_15():
    """Cosine votes at layer 15 lose accuracy over the training, most on the harder data sets; whitened ones do not."""
    geometry = kept_snapshots("geometry").set_index(["run", "snapshot", "layer"])
    for folder in FOLDERS:
        first, last = (geometry.loc[(folder.name, snapshot, 15)] for snapshot in ("8", "60"))
        easy = folder.name.startswith("mnist")
        assert first["raw"] - last["raw"] > (0.03 if easy else 0.15)
        assert abs(first["whitened"] - last["whitened"]) < (0.01 if easy else 0.06)
        assert first["top"] > 0.855 and last["top"] > (0.955 if easy else 0.985)
        for beside in (14, 16):
            assert abs(last["whitened"] - geometry.loc[(folder.name, "60", beside), "whitened"]) < 0.04
    table = layer_15_table(geometry.reset_index())
    assert set(table["run"]) == {folder.name for folder in FOLDERS}


def test_what_the_text_says_of_the_training_on_mnist():
    """The counts, the steadiness, and the blocks at its end."""
    results, findings = pages()
    name = "mnist-paper-seed2"
    verdicts = kept_snapshots("verdicts").query("run == @name and snapshot != @AVERAGE")
    holds = (verdicts["verdict"] == "holds").groupby(verdicts["claim"]).sum()
    epochs = verdicts["snapshot"].nunique()
    assert f"at {holds['3']} of the {epochs} of MNIST" in results and f"at all {epochs} epochs of MNIST" in results
    assert holds["8"] == holds["4"] == epochs
    first = verdicts.query("claim == '1a'").set_index("snapshot")["verdict"]
    assert first["1"] == "undecided" and (first.drop("1") == "does not hold").all() and len(first) - 1 == 15
    ahead = leads(kept_snapshots("layers")).set_index(["run", "snapshot"])["ahead"]
    late = [ahead[name, str(epoch)] for epoch in range(51, 61)]
    assert f"{min(late)} to {max(late)} on MNIST" in findings and ahead[name, "1"] == 20
    steady = steadiness(kept_snapshots("layers")).set_index("run").loc[name]
    assert round(steady["network"], 2) == round(steady["layer 14"], 2) == 0.08
    assert f"{steady['averaged']:.2f} points better" in results
    blocks = kept_shortcuts().query("dataset == 'mnist' and epochs == 60 and layer in @SECOND").set_index("layer")
    change, gain = (100 * (blocks[a] - blocks[b]) for a, b in (("without", "network"), ("whitened", "raw")))
    others = 100 * blocks["branch"].drop(15)
    for page in (results, findings):
        assert f"{100 * blocks['branch'][15]:.2f} % of the variance" in page
        assert f"whitening adds {gain[15]:.1f} points" in page and f"{gain.drop(15).max():.1f} at most" in page
    assert f"the five others {others.min():.0f} to {others.max():.0f} %" in results
    assert abs(change[15]) < 0.02 and (change.drop(15).abs() < 0.15).sum() == 3


def test_verdicts_of_recipes_follow_from_their_intervals():
    claims, layers = kept_recipes("claims"), kept_recipes("layers")
    assert set(claims["recipe"]) <= set(RECIPES) and set(claims["reading"]) == set(READINGS)
    asked = claims[claims["verdict"] != "does not apply"]
    said = np.select([asked["low"] > 0, asked["high"] < 0], ["holds", "does not hold"], "undecided")
    assert (asked["verdict"] == said).all()
    about = ["dataset", "recipe", "seed", "reading"]
    assert (claims.groupby(about).size() == len(CLAIMS)).all() and (layers.groupby(about).size() == 20).all()
    lead = layers[layers["k"] == 10].assign(lead=layers["accuracy"] - layers["network_accuracy"])
    for name, part in claims[claims["claim"] == "1a"].groupby(about):
        smallest = lead.set_index(about).loc[name].query("layer > 1")["lead"].min()
        assert part["measured"].item() <= smallest + 1e-4  # the smallest over every k, of which ten is one


def test_the_table_of_recipes_is_a_hand_count():
    layers = kept_recipes("layers")
    table = recipes_table(layers)
    assert set(table["recipe"]) == set(layers["recipe"])
    for row in table.to_dict("records"):
        part = layers[(layers["dataset"] == row["dataset"]) & (layers["recipe"] == row["recipe"])
                      & (layers["reading"] == "as here")]
        assert row["seeds"] == part["seed"].nunique()
        of_seeds = [sum(a > n for a, n in zip(one["accuracy"], one["network_accuracy"], strict=True))
                    for _, one in part.groupby("seed")]
        assert row["ahead"] == pytest.approx(np.mean(of_seeds))
        votes = part.groupby("layer")["accuracy"].mean()
        assert row["layer 15"] == pytest.approx(votes[15] - (votes[14] + votes[16]) / 2)
        assert row["top"] == pytest.approx(part.loc[part["layer"] == 15, "top"].mean())
        for column, name in (("agreement", "agreement"), ("on mistakes", "where wrong"), ("layer 14", "accuracy")):
            assert row[column] == pytest.approx(part.loc[part["layer"] == 14, name].mean())


def test_figures_draw_the_tables():
    layers, geometry = kept_snapshots("layers"), kept_snapshots("geometry")
    figure = over_epochs(layers)
    for axis, run in zip(figure.axes, sorted(set(layers["run"])), strict=True):
        part = layers[(layers["run"] == run) & (layers["k"] == 10) & (layers["layer"] == 14)]
        part = part[part["snapshot"] != AVERAGE].set_index("snapshot")
        drawn = {line.get_label(): line.get_xydata() for line in axis.lines}
        for label, column in (("network", "network_accuracy"), ("votes at layer 14", "accuracy")):
            expected = [(int(epoch), 100 * value) for epoch, value in part[column].items()]
            np.testing.assert_allclose(drawn[label], sorted(expected))
    plt.close(figure)
    figure = variance_figure(geometry)
    folder = FOLDERS[0].name
    part = geometry[(geometry["run"] == folder) & (geometry["layer"] == 15) & (geometry["snapshot"] != AVERAGE)]
    for panel, column in zip(figure.axes, ("raw", "whitened", "top"), strict=True):
        drawn = next(line for line in panel.lines if line.get_label() == f"layer 15, {folder.split('-')[0]}")
        expected = sorted((int(row["snapshot"]), 100 * row[column]) for row in part.to_dict("records"))
        np.testing.assert_allclose(drawn.get_xydata(), expected)
    plt.close(figure)


def pages():
    docs = REFERENCE.parents[1] / "docs"
    return [" ".join((docs / f"{name}.md").read_text(encoding="utf-8").split()) for name in ("results", "findings")]


def test_what_the_text_says_of_blocks():
    """Layers 15 and 20 belong to blocks that networks trained with Adam do without, and the other blocks do not."""
    table = kept_shortcuts().query("images == 10000 and epochs == 20 and shortcuts == 'as here' and seed == 0")
    table = table[table["layer"].isin(SECOND)].assign(change=100 * (table["without"] - table["network"]))
    at = table.set_index(["dataset", "optimizer", "layer"])
    used = at["change"].drop([15, 20], level="layer")
    for dataset in ("cifar10", "fashion_mnist"):
        adam = at.loc[dataset, "adam"]
        assert round(100 * adam.loc[15, "branch"]) == 2 and adam.loc[[15, 20], "change"].abs().max() < 0.5
        assert used[dataset, "adam"].max() < -2 and adam.loc[[15, 20], "top"].min() > adam["top"].drop([15, 20]).max()
    sgd = at.loc["cifar10", "sgd"]
    for page in pages():
        assert f"{-used.xs('adam', level='optimizer').max():.1f} to " in page
        assert f"{-used['cifar10', 'adam'].min():.1f}" in page and f"{-sgd.loc[15, 'change']:.1f} points" in page
        assert f"{100 * sgd.loc[15, 'branch']:.0f} % of the variance" in page
        for dataset in ("cifar10", "fashion_mnist"):
            assert f"{at.loc[(dataset, 'adam', 15), 'change']:+.1f}".replace("-", "−") in page


def test_what_the_text_says_of_recipes():
    """How many layers lead, what lies in two directions at layer 15, and which claims no recipe changes."""
    table = recipes_table(kept_recipes("layers")).set_index(["dataset", "recipe"])
    sets = ("mnist", "fashion_mnist", "cifar10")

    def of(column, recipe, times=1, digits=0):
        one, two, three = (f"{times * table.loc[(name, recipe), column] + 1e-9:.{digits}f}" for name in sets)
        return f"{one}, {two} and {three}"

    def range_of(*recipes):
        share = [100 * table.loc[(name, recipe), "top"] for name in sets for recipe in recipes]
        return f"{min(share):.0f} to {max(share):.0f} %"

    results, findings = pages()
    ours, falling, sgd, decay = "as here", "linear schedule", "SGD, momentum 0.9", "Adam, decay 0.0005"
    lead = [of("ahead", recipe) for recipe in (ours, falling, sgd)]
    ahead = table["ahead"].unstack()
    assert (ahead[ours] > ahead[falling]).all() and (ahead[ours] > ahead[sgd]).all()  # "fewer", on each data set
    assert f"With our recipe {lead[0]} layers are ahead" in results and f"falls to zero it is {lead[1]}" in results
    assert f"With SGD and momentum it is {lead[2]}" in results
    assert f"{lead[0]} of 20 on MNIST, Fashion-MNIST and CIFAR-10 with Adam at a constant rate, {lead[1]}" in findings
    assert f"{lead[2]} with SGD and momentum" in findings
    like = [recipe for recipe in RECIPES if "decay" in recipe or recipe in ("three channels", "bfloat16")]
    easy, hard = ([f"{table.loc[(name, recipe), 'ahead']:.0f}" for name in part for recipe in like]
                  for part in (sets[:2], sets[2:]))
    ends = [pick(map(int, part)) for part in (easy, hard) for pick in (min, max)]
    assert "it is {} to {} on MNIST and Fashion-MNIST and {} to {} on CIFAR-10".format(*ends) in results
    first = recipes_table(kept_recipes("layers").query("seed == 0")).set_index(["dataset", "recipe"])["ahead"]
    twice = [first["cifar10", recipe] for recipe in ("three channels", ours)]
    assert "with seed 0 gives {:.0f} and {:.0f} on two processors".format(*twice) in results
    wrong = [of("on mistakes", recipe, 100) for recipe in (falling, ours)]
    assert f"repeat {wrong[0]} % of its mistakes, {wrong[1]} % with our recipe" in results
    assert f"{range_of(ours)} of the variance with our recipe, {range_of(falling)} with a falling rate" in results
    assert f"{range_of('SGD', sgd, 'SGD, linear, augmented')} with SGD, and 98 or 99 %" in results
    assert {f"{100 * table.loc[(name, decay), 'top']:.0f}" for name in sets} == {"98", "99"}
    drop = [f"{-100 * table.loc[('cifar10', recipe), 'layer 15']:.1f}" for recipe in (decay, ours, falling)]
    assert f"{drop[0]} points below those at layers 14 and 16, {drop[1]} without the decay and {drop[2]}" in results
    better = [100 * (table.loc[(name, falling), "network"] - table.loc[(name, ours), "network"]) for name in sets]
    assert "{:.1f}, {:.1f} and {:.1f} points more accurate".format(*(one + 1e-9 for one in better)) in results


def test_which_claims_hold_by_which_recipe():
    """As the text says: none about every layer; claim 4 with Adam; claim 6 with a decay; and the best recipe."""
    claims = kept_recipes("claims")
    claims = claims[claims["verdict"].isin(KINDS)]
    assert not (claims[claims["claim"].isin(["1a", "1b", "2a", "2b"])]["verdict"] == "holds").any()
    results, _ = pages()
    four = claims[claims["claim"] == "4"]
    adam = four[[RECIPES[recipe].get("optimizer", "adam").startswith("adam") for recipe in four["recipe"]]]
    assert (adam["verdict"] == "holds").all() and f"holds in all {len(adam)} cases with Adam or AdamW" in results
    plain = four[(four["recipe"] == "SGD") & (four["reading"] == "as here") & (four["dataset"] != "cifar10")]
    assert len(plain) == 2 and (plain["verdict"] == "does not hold").all()
    six = claims[(claims["claim"] == "6") & (claims["recipe"] == "Adam, decay 0.0005")]
    assert len(six) == len(READINGS) and (six["verdict"] == "holds").all()
    score = score_recipes(claims)
    assert set(score["recipe"]) == set(RECIPES) - {"cifar stem"} and len(score) == 40
    first, hold = score.iloc[0], score.set_index(["recipe", "reading"])["hold"]
    assert set(score[score["hold"] == first["hold"]]["recipe"]) == {"as here"}
    assert f"with our own recipe: {first['hold']} of 15" in results
    assert f"{hold['as here', 'as here']} as we read the paper" in results
    assert f"reach {first['hold']} by chance in {100 * first['at least']:.0f} % of the draws" in results
    sgd = hold[["SGD" in recipe for recipe, _ in hold.index]]
    assert f"with the three kinds of SGD {sgd.min()} to {sgd.max()}" in results


def test_what_the_text_says_of_bfloat16():
    """The mean accuracy of three networks in each precision, with the lowest and the highest."""
    layers = kept_recipes("layers").query("dataset == 'cifar10' and reading == 'as here' and layer == 1")
    for recipe, words in (("bfloat16", "{:.1f} % on CIFAR-10 ({:.1f} to {:.1f})"),
                          ("as here", "{:.1f} % in float32 ({:.1f} to {:.1f})")):
        found = 100 * layers.loc[layers["recipe"] == recipe, "network_accuracy"]
        assert len(found) == 3
        assert words.format(*(one + 1e-9 for one in (found.mean(), found.min(), found.max()))) in pages()[0]
