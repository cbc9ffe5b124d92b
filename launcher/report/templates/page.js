// Read-out under the pointer or the arrow keys, the same step in all charts; search in the plan. The page is whole without it.
(() => {
  const curves = document.getElementById("curves");
  const where = curves.querySelector(".moment");
  const moments = JSON.parse(curves.dataset.moments);
  const charts = [...document.querySelectorAll("[data-hover]")].map((svg) => ({
    svg, ...JSON.parse(svg.dataset.hover),
    mark: svg.querySelector(".hover"),
    readout: svg.closest("figure").querySelector(".readout"),
    asWritten: [...svg.closest("figure").querySelector(".readout").childNodes],
  }));

  const nearest = (steps, step) => {
    let low = 0, high = steps.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (steps[middle] <= step) low = middle; else high = middle; }
    return step - steps[low] <= steps[high] - step ? low : high;
  };
  const digits = (value) => {
    const size = Math.abs(value);
    if (size >= 1000) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
    return size && size < 1e-3 ? value.toExponential(2).replace("-", "−") : String(Number(value.toPrecision(4)));
  };
  const element = (name, text, style = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    made.className = style;
    return made;
  };
  const pixel = (chart, step) => chart.left + (step - chart.low) / (chart.high - chart.low) * (chart.right - chart.left);

  function show(step) {
    for (const chart of charts) {
      const dots = chart.mark.querySelectorAll("circle");
      const parts = chart.series.map((series, i) => {
        const at = nearest(series.step, step);
        dots[i].setAttribute("cx", pixel(chart, series.step[at]));
        dots[i].setAttribute("cy", series.y[at]);
        const part = element("span", "");
        if (chart.series.length > 1) part.append(element("i", series.label, "c" + series.colour), " ");
        part.append(digits(series.value[at]));
        if (series.smooth) part.append(" ≈ " + digits(series.smooth[at]));
        if (series.step[at] !== step) part.append(" at step " + series.step[at].toLocaleString("en-US"));
        return part;
      });
      const line = chart.mark.querySelector("line");
      const x = Math.min(Math.max(pixel(chart, step), chart.left), chart.right);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      chart.mark.setAttribute("visibility", "visible");
      if (chart.svg.getClientRects().length) chart.readout.replaceChildren(...parts);
    }
    let text = "step " + step.toLocaleString("en-US");
    if (moments.length) {
      const [, epoch, seen] = moments[nearest(moments.map((m) => m[0]), step)];
      if (epoch != null) text += " · epoch " + epoch.toFixed(2);
      if (seen != null) text += " · " + seen.toLocaleString("en-US", { maximumFractionDigits: 0 }) + " " + curves.dataset.unit;
    }
    where.textContent = text;
    where.hidden = false;
  }
  function hide() {
    for (const chart of charts) {
      chart.mark.setAttribute("visibility", "hidden");
      chart.readout.replaceChildren(...chart.asWritten);
    }
    where.hidden = true;
  }
  for (const chart of charts) {
    const steps = [...new Set(chart.series.flatMap((series) => series.step))].sort((a, b) => a - b);
    let position = steps.length - 1;
    chart.svg.addEventListener("pointermove", (event) => {
      const box = chart.svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * chart.svg.viewBox.baseVal.width;
      position = nearest(steps, chart.low + (x - chart.left) / (chart.right - chart.left) * (chart.high - chart.low));
      show(steps[position]);
    });
    chart.svg.addEventListener("pointerleave", hide);
    chart.svg.addEventListener("blur", hide);
    chart.svg.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length }[event.key];
      if (!way) { if (event.key === "Escape") hide(); return; }
      event.preventDefault();
      position = Math.min(Math.max(position + way, 0), steps.length - 1);
      show(steps[position]);
    });
  }

  for (const input of document.querySelectorAll("[data-filters]")) {
    const rows = [...document.getElementById(input.dataset.filters).tBodies[0].rows];
    const found = input.closest("p").querySelector("[role=status]");
    input.closest("p").hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      found.textContent = input.value.trim() ? rows.filter((row) => !row.hidden).length + " of " + rows.length : "";
    });
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
})();
