// Search in pages that are opened as files. Browsers start no worker from file://, and the theme searches in one. Here a
// hidden frame takes its place: the worker's script runs there, and messages are events. The theme would load such a
// stand-in from a server elsewhere; this site loads nothing from elsewhere.
(() => {
  if (location.protocol !== "file:") return;

  /** Appends a script to a document and resolves when it has run. */
  const run = (document, url) =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`could not load ${url}`));
      document.head.append(script);
    });

  class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "Search";
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = async (...urls) => {
        for (const each of urls) await run(inside.document, each);
      };
      this.ready = run(inside.document, url);
    }

    async postMessage(data) {
      await this.ready;
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  }

  // The theme's worker looks for the first name to find its own scripts.
  window.IFrameWorker = window.Worker = IFrameWorker;
})();
