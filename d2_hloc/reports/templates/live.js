(() => {
  const find = (id) => document.getElementById(id);
  const made = (tag, text, parent, className = "") => {
    const element = document.createElement(tag);
    element.textContent = text;
    element.className = className;
    parent.append(element);
    return element;
  };
  const duration = (seconds) => {
    const whole = Math.round(seconds);
    const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
    if (hours) return `${hours} h ${String(minutes).padStart(2, "0")} min`;
    return minutes ? `${minutes} min ${String(whole % 60).padStart(2, "0")} s` : `${whole} s`;
  };
  const showBars = (bars, seconds) => {
    const at = find("bars");
    at.replaceChildren();
    made("p", `The run goes on since ${duration(seconds)}.`, at, "note");
    for (const bar of bars) {
      const of = bar.total ? ` of ${bar.total.toLocaleString("en")}` : "";
      const left = bar.left === null ? "" : `, ${duration(bar.left)} left`;
      const text = `${bar.name}: ${bar.done.toLocaleString("en")}${of} ${bar.unit}s${left}`;
      const label = made("label", text, at, "bar");
      const progress = document.createElement("progress");
      if (bar.total) Object.assign(progress, { max: bar.total, value: bar.done });
      label.append(progress);
    }
  };
  const showStages = (stages) => {
    const at = find("stages");
    at.replaceChildren();
    for (const [name, seconds] of Object.entries(stages)) {
      const row = made("tr", "", at);
      made("td", name, row);
      made("td", duration(seconds), row, "number");
    }
  };
  let shown = "";
  const showModel = async (version) => {
    if (!version || version === shown) return;
    const figure = await (await fetch("model.json")).json();
    if (figure === null) return;
    shown = version;
    find("no-model").hidden = true;
    find("model").classList.add("plot");
    await drawFigure(find("model"), figure);
  };
  let failures = 0;
  const look = async () => {
    try {
      const state = await (await fetch("state.json")).json();
      failures = 0;
      showBars(state.bars, state.seconds);
      showStages(state.stages);
      await showModel(state.model);
    } catch {
      failures += 1;
    }
    if (failures >= 3) {
      find("ended").hidden = false;
      find("bars").replaceChildren();
    } else {
      setTimeout(look, 1000);
    }
  };
  look();
})();
