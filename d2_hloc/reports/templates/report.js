(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const isNarrow = innerWidth < 640;
  const template = () => {
    const axis = {
      gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"),
      automargin: true,
    };
    const deep = { ...axis, showbackground: false, color: colour("--soft") };
    return { layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {
        family: getComputedStyle(document.body).fontFamily, color: colour("--ink"),
        size: isNarrow ? 11 : 13,
      },
      colorway: ["#3b8bd0", "#e0651b", "#1f9e77", "#c2569b", "#b8860b", "#7a6fd0"],
      hoverlabel: {
        bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--ink") },
        align: "left", namelength: -1,
      },
      modebar: {
        bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent"),
      },
      margin: { l: 50, r: 20, t: 30, b: 45 },
      xaxis: axis, yaxis: axis, scene: { xaxis: deep, yaxis: deep, zaxis: deep },
    } };
  };
  const plots = [...document.querySelectorAll(".plot")];
  const buttons = [["toImage", "resetCameraDefault3d"]];
  const draw = (plot) => drawFigure(plot, JSON.parse(plot.querySelector("script").textContent));
  // Drawn again, a figure keeps the view that the reader turned it to.
  window.drawFigure = (plot, { data, layout }) => {
    delete layout.height;
    layout.template = template();
    const isScene = plot.classList.contains("scene");
    if (isScene) stepBack(layout.scene?.camera, plot);
    const options = { modeBarButtons: buttons, displayModeBar: isScene && !isNarrow };
    return Plotly.react(plot, data, layout, { responsive: true, displaylogo: false, ...options });
  };
  // A view's opening angle is its height's: on a narrow screen the sides would be cut off.
  const stepBack = (camera, plot) => {
    const factor = Math.max(1, 1.4 * plot.clientHeight / plot.clientWidth);
    for (const axis of camera?.eye ? "xyz" : "") {
      const centre = camera.center?.[axis] ?? 0;
      camera.eye[axis] = centre + (camera.eye[axis] - centre) * factor;
    }
  };
  window.figuresDrawn = Promise.all(plots.map(draw));
  const recolour = () => document.querySelectorAll(".plot").forEach((plot) => {
    Plotly.relayout(plot, { template: template(), autosize: true });
  });
  for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(query).addEventListener("change", recolour);
  }
})();
