() => {
  // Screen readers say what is written into it.
  document.querySelector("#status").setAttribute("aria-live", "polite");
  // Gradio's groups of boxes have a caption, but no name.
  const nameGroups = () =>
    document.querySelectorAll("fieldset:not([aria-label])").forEach((group) => {
      const caption = group.querySelector("[data-testid='block-info']");
      if (caption) group.setAttribute("aria-label", caption.textContent.trim());
    });
  new MutationObserver(nameGroups).observe(document.body, { childList: true, subtree: true });
  nameGroups();
}
