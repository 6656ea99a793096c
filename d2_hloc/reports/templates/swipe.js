(() => {
  for (const swipe of document.querySelectorAll(".swipe")) {
    const slider = swipe.querySelector("input");
    const button = swipe.querySelector("button");
    const show = () => swipe.style.setProperty("--at", `${slider.value}%`);
    slider.addEventListener("input", show);
    let timer = null;
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(timer === null));
      if (timer === null) {
        let isFirst = false;
        timer = setInterval(() => {
          isFirst = !isFirst;
          swipe.style.setProperty("--at", isFirst ? "100%" : "0%");
        }, 500);
      } else {
        clearInterval(timer);
        timer = null;
        show();
      }
    });
  }
})();
