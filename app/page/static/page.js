// The drop zone: files go to the server one after the other; `window.fastmetro.taken()` names them.
(() => {
  "use strict";
  // Gradio's 3D viewer tries WebGPU first and reports an error where there is none, before it does well with WebGL.
  delete Navigator.prototype.gpu;

  const zones = new Set();

  const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

  class DropZone {
    constructor(root) {
      this.root = root;
      this.list = root.querySelector(".fm-files");
      this.problem = root.querySelector(".fm-problem");
      this.input = root.querySelector("input[type=file]");
      this.maxBytes = Number(root.dataset.maxBytes);
      this.maxFiles = Number(root.dataset.maxFiles);
      this.files = [];
      this.queue = Promise.resolve();
      this.input.addEventListener("change", () => {
        this.add([...this.input.files]);
        this.input.value = "";
      });
      for (const name of ["dragenter", "dragover"]) root.addEventListener(name, (event) => this.hover(event, true));
      for (const name of ["dragleave", "drop"]) root.addEventListener(name, (event) => this.hover(event, false));
      root.addEventListener("drop", (event) => this.add([...event.dataTransfer.files]));
    }

    hover(event, over) {
      event.preventDefault();
      this.root.classList.toggle("over", over);
    }

    say(text) {
      this.problem.textContent = text;
      this.problem.hidden = !text;
    }

    add(files) {
      this.say("");
      for (const file of files) {
        if (this.files.length >= this.maxFiles) {
          this.say(`At most ${this.maxFiles} files at a time; make their meshes first.`);
          return;
        }
        if (file.size > this.maxBytes) {
          this.say(`${file.name} is ${size(file.size)}; this page takes up to ${size(this.maxBytes)}. Cut or compress it.`);
          continue;
        }
        const entry = { file, id: null, row: this.addRow(file) };
        this.files.push(entry);
        this.queue = this.queue.then(() => this.send(entry));
      }
    }

    addRow(file) {
      const row = document.createElement("li");
      row.innerHTML = '<span class="name"></span><span class="detail"></span><button type="button" aria-label="Remove">×</button><i></i>';
      row.querySelector(".name").textContent = file.name;
      row.querySelector(".detail").textContent = size(file.size);
      row.querySelector("button").addEventListener("click", () => this.remove(row));
      this.list.append(row);
      return row;
    }

    remove(row) {
      const entry = this.files.find((item) => item.row === row);
      this.files = this.files.filter((item) => item !== entry);
      row.remove();
      entry?.request?.abort();
      if (entry?.id) fetch(`/page/upload/${entry.id}`, { method: "DELETE" });
    }

    send(entry) {
      if (!this.files.includes(entry)) return Promise.resolve();
      return new Promise((resolve) => {
        const request = new XMLHttpRequest();
        entry.request = request;
        request.open("POST", `/page/upload?name=${encodeURIComponent(entry.file.name)}`);
        request.responseType = "json";
        request.upload.onprogress = (event) => {
          entry.row.querySelector("i").style.width = `${(100 * event.loaded) / event.total}%`;
        };
        request.onload = () => {
          const answer = request.response || {};
          if (request.status === 200) this.accept(entry, answer);
          else this.refuse(entry, answer.error || `The upload failed (${request.status}).`);
          resolve();
        };
        request.onerror = () => {
          this.refuse(entry, "The upload broke off. Is the program still running?");
          resolve();
        };
        request.onabort = resolve;
        request.send(entry.file);
      });
    }

    accept(entry, answer) {
      entry.id = answer.id;
      entry.row.classList.add("ready");
      const parts = [`${answer.width} × ${answer.height}`];
      if (answer.frames) parts.push(`${answer.frames} frames`);
      if (answer.seconds) parts.push(`${answer.seconds.toFixed(1)} s`);
      entry.row.querySelector(".detail").textContent = parts.join(" · ");
    }

    refuse(entry, text) {
      this.files = this.files.filter((item) => item !== entry);
      entry.row.remove();
      this.say(text);
    }
  }

  window.fastmetro = {
    // The ids of all files, once those under way have arrived.
    taken: async () => {
      await Promise.all([...zones].map((zone) => zone.queue));
      return JSON.stringify([...zones].flatMap((zone) => zone.files.map((entry) => entry.id).filter(Boolean)));
    },
  };

  const mount = () => {
    for (const root of document.querySelectorAll("[data-drop]:not([data-mounted])")) {
      root.dataset.mounted = "";
      zones.add(new DropZone(root));
    }
  };
  new MutationObserver(mount).observe(document.documentElement, { childList: true, subtree: true });
  mount();
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
})();
