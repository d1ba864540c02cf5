// A page that is read from the disk may not start the worker that searches: a frame does the work instead.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc = ""
      this.inside = new Promise((resolve, reject) => {
        this.frame.onload = () => {
          const { contentWindow: inside, contentDocument: page } = this.frame
          inside.postMessage = (message) => {
            const data = structuredClone(message)
            setTimeout(() => this.onmessage?.({ data }))
          }
          const script = page.createElement("script")
          script.onload = () => resolve(inside)
          script.onerror = reject
          script.src = url
          page.head.append(script)
        }
      })
      this.inside.catch(() => this.onerror?.(new ErrorEvent("error")))
      document.body.append(this.frame)
    }

    postMessage(message) {
      const data = structuredClone(message)
      this.inside.then((inside) => inside.onmessage?.({ data }), () => {})
    }

    terminate() {
      this.frame.remove()
    }
  }
}
