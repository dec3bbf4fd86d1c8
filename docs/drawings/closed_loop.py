"""The closed loop: training reads recorded actions, all steps at once; live, the network reads its own last one."""

from .canvas import Canvas

COLUMNS, STEP = (116, 236, 356, 476, 596), 156
WIDTH, HEIGHT = 60, 52


def closed_loop() -> str:
    """The picture as SVG."""
    title = (
        "A closed loop. Training: all steps in one call, each reads x(t) and the recorded action of the step before."
        " Live: one step a call; the action goes to the environment and, one step late, back into the network"
    )
    sheet = Canvas(720, 560, title)
    _training(sheet)
    _live(sheet)
    return sheet.svg()


def _training(sheet: Canvas) -> None:
    sheet.add('<rect class="grid" x="24" y="20" width="672" height="252" rx="10"/>')
    sheet.text(40, 48, "Training: N steps in one call", "title left")
    sheet.text(40, 70, "it reads the recorded actions (teacher forcing), so all steps run at once", "small faint left")
    for step, x in enumerate(COLUMNS, start=1):
        sheet.box(x, STEP, WIDTH, HEIGHT)
        sheet.arrow([(x, STEP - HEIGHT / 2), (x, STEP - 46)])
        sheet.text(x, STEP - 52, f"y({step})", "value small")
        sheet.arrow([(x - 14, STEP + 54), (x - 14, STEP + HEIGHT / 2)])
        sheet.text(x - 20, STEP + 70, f"x({step})", "value small")
        sheet.arrow([(x + 14, STEP + 72), (x + 14, STEP + HEIGHT / 2)], "late")
        sheet.text(x + 20, STEP + 88, f"a({step - 1})", "value small late")
        end = x + 120 - WIDTH / 2 if step < len(COLUMNS) else 688
        sheet.arrow([(x + WIDTH / 2, STEP), (end, STEP)], "state")


def _live(sheet: Canvas) -> None:
    sheet.add('<rect class="grid" x="24" y="288" width="672" height="252" rx="10"/>')
    sheet.text(40, 316, "Live: one step a call", "title left")
    sheet.text(40, 338, "the same weights; what it did is part of what it reads next", "small faint left")
    world, network, middle, floor = 130, 360, 440, 520
    sheet.box(world, middle, 130, 76, "world", "game, machine", kind="other")
    sheet.box(network, middle, 130, 76, "network", "one step")
    sheet.arrow([(world + 65, middle), (network - 65, middle)])
    sheet.text((world + network) / 2, middle - 10, "x(t)", "value")
    sheet.arrow([(network + 65, middle), (560, middle), (560, floor), (world, floor), (world, middle + 38)])
    sheet.text(492, middle - 10, "action a(t)", "value")
    sheet.arrow([(network, floor), (network, middle + 38)], "late", dashed=True)
    sheet.text(network + 12, 506, "a(t−1), one step late", "small late left")
    sheet.arrow(
        [(network + 36, middle - 38), (network + 36, 370), (network - 36, 370), (network - 36, middle - 38)], "state"
    )
    sheet.text(network + 48, 380, "state", "small state left")
