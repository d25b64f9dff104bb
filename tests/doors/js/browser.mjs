// The Chromium that `CHROMIUM` names. It reaches this machine alone, and ends with this process, however that ends; its sandbox does not
// start for root.

import { launch } from "puppeteer-core";

export async function openedPage() {
  const browser = await launch({
    executablePath: process.env.CHROMIUM,
    pipe: true,
    args: ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
  });
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  page.on("console", (message) => console.error(message.text()));
  page.on("pageerror", (error) => console.error(error));
  return page;
}
