"""How lips form what is said, by the bundled weights."""

import measure_articulation


def test_vowels_between_closures_are_open_and_rounded_ones_narrow(capsys):
    """In words that no sentence of the training corpus has."""
    measure_articulation.main(["--text", "Mum, the map! Papa moved, too."])
    found = {}
    for line in capsys.readouterr().out.splitlines()[2:]:
        unit, cases, gap, width, least = line.strip("| ").split(" | ")
        found[unit] = int(cases), float(gap), float(width), least
    cases, gaps, widths, least = ({unit: row[column] for unit, row in found.items()} for column in range(4))
    assert cases["M"] == 7 and gaps["M"] < 0.5 and gaps["SIL"] < 1
    assert gaps["AE"] > 3 and gaps["AA"] > 4 and gaps["UW"] > 1.5
    assert widths["UW"] < 90 < widths["AE"]
    assert "m [ʌ] m" in least["AH"] and gaps["AH"] > 1.5
