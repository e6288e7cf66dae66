"use strict";
// Without this script the page is whole; with it the problems can be filtered.
const bar = document.querySelector(".filters");
if (bar) {
  const problems = [...document.querySelectorAll("details.problem")];
  const [dataset, outcome, text] = ["dataset", "outcome", "text"].map((name) => bar.querySelector(`[name=${name}]`));
  const count = document.getElementById("count");
  const filter = () => {
    const words = text.value.toLowerCase();
    let shown = 0;
    for (const problem of problems) {
      problem.hidden =
        (dataset.value !== "" && problem.dataset.set !== dataset.value) ||
        (outcome.value !== "" && problem.dataset.outcome !== outcome.value) ||
        !problem.textContent.toLowerCase().includes(words);
      shown += problem.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${problems.length} problems`;
  };
  bar.addEventListener("input", filter);
  bar.hidden = false;
  filter();
}
