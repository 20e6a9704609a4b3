//! The machine's screen in a window.
//!
//! The window system wants the main thread, so the machine runs on another one; pictures come
//! over through [`Screen`], keys and pointer movement go back as events.

use crate::event::Event;
use crate::keys::scan_code;
use anyhow::{Context as _, Result};
use orrery_system::display::Surface;
use orrery_system::input::InputEvent;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use winit::application::ApplicationHandler;
use winit::dpi::LogicalSize;
use winit::event::{
    DeviceEvent, ElementState, KeyEvent, MouseButton, MouseScrollDelta, WindowEvent,
};
use winit::event_loop::{ActiveEventLoop, EventLoop, EventLoopProxy};
use winit::keyboard::{KeyCode, PhysicalKey};
use winit::window::{CursorGrabMode, Window, WindowId};

/// What the machine's thread tells the window.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tell {
    /// There is a new picture.
    Redraw,
    /// The machine has ended.
    Ended,
}

/// The picture between the two threads.
#[derive(Clone)]
pub(crate) struct Screen {
    /// The newest picture.
    pub surface: Arc<Mutex<Surface>>,
    /// The machine wants to be told where the pointer is, not how far it moved.
    pub absolute: Arc<AtomicBool>,
    proxy: EventLoopProxy<Tell>,
}

impl Screen {
    /// Tells the window something; it may be gone.
    pub(crate) fn tell(&self, what: Tell) {
        let _ = self.proxy.send_event(what);
    }
}

struct App {
    title: String,
    screen: Screen,
    events: Sender<Event>,
    view: Option<View>,
    size: (u32, u32),
    grabbed: bool,
    down: BTreeSet<u16>,
}

struct View {
    window: Rc<Window>,
    pixels: softbuffer::Surface<Rc<Window>, Rc<Window>>,
}

/// Shows a window until the machine ends or the window is closed. `run` is called with the screen
/// on a thread of its own; its result is returned.
pub(crate) fn show<T: Send + 'static>(
    title: &str,
    events: Sender<Event>,
    run: impl FnOnce(Screen) -> T + Send + 'static,
) -> Result<T> {
    let event_loop = EventLoop::<Tell>::with_user_event()
        .build()
        .context("no window can be opened here; use -nographic or -display none")?;
    let screen = Screen {
        surface: Arc::default(),
        absolute: Arc::default(),
        proxy: event_loop.create_proxy(),
    };
    let theirs = screen.clone();
    let machine = std::thread::Builder::new().name("machine".into()).spawn(move || {
        let result = run(theirs.clone());
        theirs.tell(Tell::Ended);
        result
    })?;
    let mut app = App {
        title: title.into(),
        screen,
        events,
        view: None,
        size: (720, 400),
        grabbed: false,
        down: BTreeSet::new(),
    };
    event_loop.run_app(&mut app).context("the window system failed")?;
    machine.join().map_err(|_| anyhow::anyhow!("the machine's thread failed"))
}

impl App {
    fn send(&self, event: InputEvent) {
        let _ = self.events.send(Event::Input(event));
    }

    fn open(&mut self, event_loop: &ActiveEventLoop) -> Result<View> {
        let attributes = Window::default_attributes()
            .with_title(&self.title)
            .with_inner_size(LogicalSize::new(self.size.0, self.size.1));
        let window = Rc::new(event_loop.create_window(attributes)?);
        let context =
            softbuffer::Context::new(window.clone()).map_err(|e| anyhow::anyhow!("{e}"))?;
        let pixels = softbuffer::Surface::new(&context, window.clone())
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(View { window, pixels })
    }

    fn absolute(&self) -> bool {
        self.screen.absolute.load(Ordering::Relaxed)
    }

    /// Tells where the pointer is on the picture.
    fn place(&self, x: f64, y: f64) {
        let Some(view) = &self.view else { return };
        let inner = view.window.inner_size();
        let fit = fit(self.size, (inner.width, inner.height));
        let on = |at: f64, from: u64, len: u64| {
            ((at - from as f64) / len.max(1) as f64 * 32768.0).clamp(0.0, 32767.0) as u16
        };
        let (x, y) = (on(x, fit.x, fit.width), on(y, fit.y, fit.height));
        self.send(InputEvent::Position { x, y });
    }

    fn grab(&mut self, on: bool) {
        let Some(view) = &self.view else { return };
        self.grabbed = on;
        view.window.set_cursor_visible(!on);
        let mode = if on { CursorGrabMode::Locked } else { CursorGrabMode::None };
        if view.window.set_cursor_grab(mode).is_err() && on {
            let _ = view.window.set_cursor_grab(CursorGrabMode::Confined);
        }
        let hint = if on { " - Ctrl+Alt+G frees the pointer" } else { "" };
        view.window.set_title(&format!("{}{hint}", self.title));
    }

    fn key(&mut self, event: &KeyEvent) {
        let PhysicalKey::Code(code) = event.physical_key else { return };
        let down = event.state == ElementState::Pressed;
        let Some(key) = scan_code(code) else { return };
        let ctrl_alt =
            (self.down.contains(&0x1d) || self.down.contains(&0xe01d)) && self.down.contains(&0x38);
        if ctrl_alt && down && code == KeyCode::KeyG {
            self.release_keys();
            let on = !self.grabbed;
            return self.grab(on);
        }
        if down {
            self.down.insert(key.0);
        } else {
            self.down.remove(&key.0);
        }
        self.send(InputEvent::Key { key, down });
    }

    /// Lifts every key: the window loses the focus, or a hot key was for us.
    fn release_keys(&mut self) {
        for code in std::mem::take(&mut self.down) {
            self.send(InputEvent::Key { key: orrery_system::input::Key(code), down: false });
        }
    }

    fn draw(&mut self) -> Result<()> {
        let Some(view) = &mut self.view else { return Ok(()) };
        let picture = self.screen.surface.lock().expect("no panic while held");
        let (w, h) = (picture.width, picture.height);
        if w == 0 || h == 0 {
            return Ok(());
        }
        if self.size != (w, h) {
            self.size = (w, h);
            let _ = view.window.request_inner_size(LogicalSize::new(w, h));
        }
        let inner = view.window.inner_size();
        let (Some(ow), Some(oh)) = (NonZeroU32::new(inner.width), NonZeroU32::new(inner.height))
        else {
            return Ok(());
        };
        view.pixels.resize(ow, oh).map_err(|e| anyhow::anyhow!("{e}"))?;
        let mut out = view.pixels.buffer_mut().map_err(|e| anyhow::anyhow!("{e}"))?;
        scale(&picture, &mut out, inner.width, inner.height);
        drop(picture);
        out.present().map_err(|e| anyhow::anyhow!("{e}"))
    }
}

/// Where the picture is in the window.
struct Fit {
    x: u64,
    y: u64,
    width: u64,
    height: u64,
}

/// Fits a picture into the middle of a window. Whole factors keep pixels square and crisp; smaller windows shrink as
/// they must.
fn fit((w, h): (u32, u32), (ow, oh): (u32, u32)) -> Fit {
    let (w, h) = (u64::from(w.max(1)), u64::from(h.max(1)));
    let (ow, oh) = (u64::from(ow), u64::from(oh));
    let (width, height) = match (ow / w).min(oh / h) {
        0 if ow * h < oh * w => (ow, (ow * h / w).max(1)),
        0 => ((oh * w / h).max(1), oh),
        factor => (w * factor, h * factor),
    };
    Fit { x: ow.saturating_sub(width) / 2, y: oh.saturating_sub(height) / 2, width, height }
}

/// Puts the picture in the middle of `out`, as large as fits, nearest pixel.
fn scale(picture: &Surface, out: &mut [u32], ow: u32, oh: u32) {
    let (w, h) = (u64::from(picture.width), u64::from(picture.height));
    let Fit { x: x0, y: y0, width: sw, height: sh } =
        fit((picture.width, picture.height), (ow, oh));
    out.fill(0);
    for y in 0..sh {
        let from = &picture.pixels[(y * h / sh * w) as usize..][..w as usize];
        let to = &mut out[((y0 + y) * u64::from(ow) + x0) as usize..][..sw as usize];
        for (x, p) in to.iter_mut().enumerate() {
            *p = from[(x as u64 * w / sw) as usize];
        }
    }
}

impl ApplicationHandler<Tell> for App {
    fn resumed(&mut self, event_loop: &ActiveEventLoop) {
        if self.view.is_some() {
            return;
        }
        match self.open(event_loop) {
            Ok(view) => self.view = Some(view),
            Err(e) => {
                tracing::error!("cannot open a window: {e:#}");
                let _ = self.events.send(Event::Close);
                event_loop.exit();
            }
        }
    }

    fn user_event(&mut self, event_loop: &ActiveEventLoop, tell: Tell) {
        match (tell, &self.view) {
            (Tell::Ended, _) => event_loop.exit(),
            (Tell::Redraw, Some(view)) => view.window.request_redraw(),
            (Tell::Redraw, None) => {}
        }
    }

    fn window_event(&mut self, event_loop: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        match event {
            WindowEvent::CloseRequested => {
                let _ = self.events.send(Event::Close);
                event_loop.exit();
            }
            WindowEvent::RedrawRequested => {
                if let Err(e) = self.draw() {
                    tracing::error!("cannot draw: {e:#}");
                }
            }
            WindowEvent::Resized(_) => {
                if let Some(v) = &self.view {
                    v.window.request_redraw();
                }
            }
            WindowEvent::Focused(false) => {
                self.release_keys();
                self.grab(false);
            }
            WindowEvent::KeyboardInput { event, is_synthetic: false, .. } => self.key(&event),
            WindowEvent::MouseInput { state, button, .. } => {
                let down = state == ElementState::Pressed;
                if self.absolute() {
                    if self.grabbed {
                        self.grab(false);
                    }
                } else if !self.grabbed {
                    if down {
                        self.grab(true);
                    }
                    return;
                }
                let index = match button {
                    MouseButton::Left => 0,
                    MouseButton::Middle => 1,
                    MouseButton::Right => 2,
                    _ => return,
                };
                self.send(InputEvent::Button { index, down });
            }
            WindowEvent::CursorMoved { position, .. } if self.absolute() => {
                self.place(position.x, position.y);
            }
            WindowEvent::MouseWheel { delta, .. } => {
                let dz = match delta {
                    MouseScrollDelta::LineDelta(_, y) => y as i32,
                    MouseScrollDelta::PixelDelta(p) => (p.y / 16.0) as i32,
                };
                self.send(InputEvent::Wheel { dz });
            }
            _ => {}
        }
    }

    fn device_event(&mut self, _: &ActiveEventLoop, _: winit::event::DeviceId, event: DeviceEvent) {
        if let DeviceEvent::MouseMotion { delta: (dx, dy) } = event {
            if self.grabbed && !self.absolute() {
                self.send(InputEvent::Motion { dx: dx as i32, dy: dy as i32 });
            }
        }
    }
}
