// The live tab: this browser's camera as JPEG frames over a WebSocket, at most two under way; drawn frames come back.
(() => {
  "use strict";
  const IN_FLIGHT = 2;
  const LONGEST_SIDE = 640;
  const QUALITY = 0.8;
  const KEPT = 900;
  const STUCK_MS = 5000;
  const LAST_WORDS_MS = 10000;

  const CAMERA_PROBLEMS = {
    NotAllowedError: "The browser may not use the camera: allow it with the camera symbol beside the address, then start again.",
    NotFoundError: "No camera was found on this device: plug one in, then start again.",
    NotReadableError: "The camera is in use by another program: close that one, then start again.",
    OverconstrainedError: "The camera that was chosen is gone: choose another one.",
  };
  const INSECURE = "Browsers give cameras only to pages on this very machine or over https: open it as http://localhost, or start the program with --https.";
  const ENDED = "The program ended the connection. Start again.";
  const DISTRUSTED = `The browser did not let the pictures through, as it does not trust this page's certificate. Install ${location.origin}/page/fastmetro-live.crt on this device, compare its SHA-256 with the one in the program's terminal, trust it, then start again.`;
  const NO_LINK = "The program did not say where the recording is; it is gone when this page is closed.";

  const quantile = (values, share) => {
    const sorted = [...values].sort((a, b) => a - b);
    return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : null;
  };

  class Live {
    constructor(root) {
      this.root = root;
      const find = (selector) => root.querySelector(selector);
      this.canvas = find("canvas");
      this.screen = this.canvas.getContext("2d", { alpha: false, desynchronized: true });
      this.hud = find(".fm-hud");
      this.problem = find(".fm-problem");
      this.startButton = find("#fm-live-start");
      this.recordButton = find("#fm-live-record");
      this.cameraSelect = find("[data-camera]");
      this.modelSelect = find("[data-model]");
      this.grab = document.createElement("canvas");
      this.grabber = this.grab.getContext("2d", { alpha: false });
      this.video = document.createElement("video");
      this.video.muted = this.video.playsInline = true;
      this.startButton.addEventListener("click", () => (this.stream ? this.stop() : this.start()));
      this.recordButton.addEventListener("click", () => this.record(!this.recording));
      find("[data-mirror]").addEventListener("change", (event) => this.mirror(event.target.checked));
      find("[data-hud]").addEventListener("change", (event) => root.classList.toggle("numbers", event.target.checked));
      root.classList.add("mirrored", "numbers");
      this.modelSelect.addEventListener("change", () => {
        find("div[data-badges]").innerHTML = this.modelSelect.selectedOptions[0].dataset.badges;
        if (this.stream) this.restart();
      });
      this.cameraSelect.addEventListener("change", () => this.stream && this.restart());
      this.reset();
    }

    reset() {
      this.sent = new Map();
      this.shown = [];
      this.total = 0;
      this.number = 0;
      this.encoding = false;
      this.reading = null;
      this.people = 0;
      this.owed = 0; // recordings whose link has not come yet
      this.showRecording(false);
    }

    mirror(wanted) {
      this.root.querySelector("[data-mirror]").checked = wanted;
      this.root.classList.toggle("mirrored", wanted);
    }

    say(text) {
      this.problem.textContent = text;
      this.problem.hidden = !text;
    }

    async start() {
      this.say("");
      this.reset();
      if (!navigator.mediaDevices) return this.say(INSECURE);
      this.startButton.disabled = true;
      try {
        const camera = this.cameraSelect.value;
        const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
        const which = camera ? { deviceId: { exact: camera } } : { facingMode: "user" };
        this.stream = await navigator.mediaDevices.getUserMedia({ video: { ...wanted, ...which }, audio: false });
        this.stream.getVideoTracks()[0].addEventListener("ended", () => this.stop("The camera was unplugged or taken away."));
        this.video.srcObject = this.stream;
        await this.video.play();
        const facing = this.stream.getVideoTracks()[0].getSettings().facingMode; // phones say it
        if (facing === "user" || facing === "environment") this.mirror(facing === "user");
        await this.listCameras();
        this.connect();
      } catch (error) {
        this.stop(CAMERA_PROBLEMS[error.name] || `The camera could not be started: ${error.message}`);
      }
      this.startButton.disabled = false;
    }

    async restart() {
      this.startButton.disabled = true; // start() frees it
      await this.stop();
      await this.start();
    }

    async listCameras() {
      const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");
      const current = this.stream.getVideoTracks()[0].getSettings().deviceId;
      this.cameraSelect.replaceChildren(
        ...cameras.map((device, index) => new Option(device.label || `Camera ${index + 1}`, device.deviceId, false, device.deviceId === current)),
      );
    }

    connect() {
      const scheme = location.protocol === "https:" ? "wss" : "ws";
      const socket = new WebSocket(`${scheme}://${location.host}/page/live?model=${encodeURIComponent(this.modelSelect.value)}`);
      socket.binaryType = "arraybuffer";
      socket.onmessage = (event) => this.receive(event.data);
      let opened = false;
      socket.onopen = () => (opened = true);
      socket.onclose = async () => {
        if (socket !== this.socket) return;
        const reason = opened || !(await this.answers()) ? ENDED : DISTRUSTED;
        if (socket === this.socket) this.stop(this.problem.textContent || reason);
      };
      this.socket = socket;
      this.root.classList.add("live", "loading");
      this.startButton.textContent = "Stop camera";
      this.hud.hidden = false;
      this.hud.textContent = "loading the network …";
    }

    // Whether the program is there, over https, so that a connection that never opened was not let through.
    async answers() {
      if (location.protocol !== "https:") return false;
      return fetch("/page/live.js", { cache: "no-store" }).then((answer) => answer.ok, () => false);
    }

    // The camera stops at once; the connection once it has told where the recordings are.
    async stop(reason = "") {
      this.record(false);
      const { socket, stream, owed } = this;
      const links = owed && socket?.readyState === WebSocket.OPEN ? this.links(socket, owed) : true;
      this.socket = this.stream = null;
      stream?.getTracks().forEach((track) => track.stop());
      this.video.srcObject = null;
      this.root.classList.remove("live", "loading");
      this.showRecording(false);
      this.startButton.textContent = "Start camera";
      this.recordButton.disabled = true;
      this.hud.hidden = true;
      if (reason) this.say(reason);
      if (!(await links)) this.say(NO_LINK);
      socket?.close();
    }

    // Offers the recordings that a connection still owes; false when it does not tell of all of them in time.
    links(socket, owed) {
      return new Promise((resolve) => {
        setTimeout(resolve, LAST_WORDS_MS, false);
        socket.onclose = () => resolve(false);
        socket.onmessage = (event) => {
          const message = typeof event.data === "string" ? JSON.parse(event.data) : {};
          if (message.recorded) this.offer(message.recorded);
          if (message.not_recorded) this.say(message.not_recorded);
          if (message.recorded || message.not_recorded) owed -= 1;
          if (!owed) resolve(true);
        };
      });
    }

    begin() {
      this.root.classList.remove("loading");
      this.recordButton.disabled = false;
      this.startedMs = performance.now();
      const socket = this.socket;
      const next = "requestVideoFrameCallback" in this.video
        ? (call) => this.video.requestVideoFrameCallback(call)
        : (call) => requestAnimationFrame(call);
      const tick = () => {
        if (socket !== this.socket) return;
        this.send();
        next(tick);
      };
      next(tick);
    }

    send() {
      const now = performance.now();
      for (const [number, time] of this.sent) if (now - time > STUCK_MS) this.sent.delete(number);
      if (this.encoding || this.sent.size >= IN_FLIGHT || !this.video.videoWidth) return; // two encodings might end in the wrong order
      const scale = Math.min(1, LONGEST_SIDE / Math.max(this.video.videoWidth, this.video.videoHeight));
      const width = Math.round(this.video.videoWidth * scale);
      const height = Math.round(this.video.videoHeight * scale);
      if (this.grab.width !== width || this.grab.height !== height) Object.assign(this.grab, { width, height });
      this.grabber.drawImage(this.video, 0, 0, width, height);
      const socket = this.socket;
      this.encoding = true;
      this.grab.toBlob(async (blob) => {
        const jpeg = blob && (await blob.arrayBuffer());
        this.encoding = false;
        if (!jpeg || socket !== this.socket || socket.readyState !== WebSocket.OPEN) return;
        const message = new Uint8Array(12 + jpeg.byteLength);
        const header = new DataView(message.buffer);
        header.setUint32(0, this.number, true);
        header.setFloat64(4, now, true);
        message.set(new Uint8Array(jpeg), 12);
        this.sent.set(this.number, now);
        this.number += 1;
        socket.send(message);
      }, "image/jpeg", QUALITY);
    }

    async receive(data) {
      if (typeof data === "string") return this.hear(JSON.parse(data));
      const length = new DataView(data).getUint32(0, true);
      const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      const takenMs = this.sent.get(facts.number);
      for (const number of [...this.sent.keys()]) if (number <= facts.number) this.sent.delete(number);
      this.people = facts.people;
      if (facts.hud) this.reading = facts.hud;
      if (data.byteLength > 4 + length) {
        const picture = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
        if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) {
          Object.assign(this.canvas, { width: picture.width, height: picture.height });
        }
        this.screen.drawImage(picture, 0, 0);
        picture.close();
        this.total += 1;
        const now = performance.now();
        if (takenMs !== undefined) this.shown.push({ now, latency: now - takenMs });
        if (this.shown.length > KEPT) this.shown.shift();
      }
      if (facts.hud) this.showNumbers();
    }

    hear(message) {
      if (message.ready) this.begin();
      if (message.error) this.stop(message.error[0].toUpperCase() + message.error.slice(1));
      if (message.recorded || message.not_recorded) this.owed -= 1;
      if (message.recorded) this.offer(message.recorded);
      if (message.not_recorded) {
        this.say(message.not_recorded);
        this.showRecording(false);
      }
    }

    stats(lastMs = 3000) {
      const now = performance.now();
      const recent = this.shown.filter((item) => item.now > now - lastMs);
      const spanS = recent.length > 1 ? (recent[recent.length - 1].now - recent[0].now) / 1000 : 0;
      const latencies = recent.map((item) => item.latency);
      return {
        frames: this.shown.length,
        total: this.total,
        people: this.people,
        fps: spanS ? (recent.length - 1) / spanS : 0,
        medianMs: quantile(latencies, 0.5),
        p90Ms: quantile(latencies, 0.9),
        hud: this.reading,
      };
    }

    showNumbers() {
      const { fps, medianMs, p90Ms } = this.stats();
      const people = this.people === 1 ? "1 person" : this.people ? `${this.people} people` : "nobody";
      const stages = Object.entries(this.reading.stages_ms).map(([name, value]) => `${name} ${value.toFixed(0)}`);
      const lines = [
        `${fps.toFixed(0)} fps · ${medianMs === null ? "–" : medianMs.toFixed(0)} ms (p90 ${p90Ms === null ? "–" : p90Ms.toFixed(0)}) · ${people}`,
        stages.length ? `${stages.join("  ")} ms` : "",
        this.reading.governor,
        this.reading.recording,
        ...this.reading.warnings.map((warning) => `! ${warning}`),
      ];
      const shown = this.root.clientWidth < 560 ? [lines[0], ...lines.slice(3)] : lines; // a phone has no room for stages and governor
      this.hud.textContent = shown.filter(Boolean).join("\n");
    }

    record(wanted) {
      if (wanted === this.recording || this.socket?.readyState !== WebSocket.OPEN) return;
      if (wanted) this.owed += 1;
      this.showRecording(wanted);
      this.socket.send(JSON.stringify({ record: wanted, pictures: this.root.querySelector("[data-pictures]").checked }));
    }

    showRecording(recording) {
      this.recording = recording;
      this.root.classList.toggle("recording", recording);
      this.recordButton.textContent = recording ? "Stop recording" : "Record";
    }

    offer(facts) {
      const row = document.createElement("li");
      const link = document.createElement("a");
      link.href = `/page/recording/${encodeURIComponent(facts.name)}`;
      link.download = facts.name;
      link.textContent = facts.name;
      const detail = document.createElement("span");
      detail.textContent = `${facts.frames} frames · ${(facts.bytes / 1e6).toFixed(1)} MB${facts.problem ? ` · ${facts.problem}` : ""}`;
      row.append(link, detail);
      this.root.querySelector(".fm-recordings").append(row);
    }
  }

  const mount = () => {
    for (const root of document.querySelectorAll("[data-live]:not([data-mounted])")) {
      root.dataset.mounted = "";
      window.fastmetroLive = new Live(root);
    }
  };
  new MutationObserver(mount).observe(document.documentElement, { childList: true, subtree: true });
  mount();
})();
