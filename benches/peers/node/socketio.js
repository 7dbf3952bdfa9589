// Socket.IO over WebSocket alone: its own rooms and its own broadcast, which encodes an event once.
'use strict';

const { Server } = require('socket.io');
const { listen, serve } = require('./rooms.js');

let io;
const server = serve((room, body) => io.to(room).emit('event', JSON.parse(body)));

io = new Server(server, { transports: ['websocket'], serveClient: false, perMessageDeflate: false, httpCompression: false });

// The documentation's advice for memory: the first HTTP request is not kept.
io.engine.on('connection', (raw) => {
  raw.request = null;
});
io.on('connection', (socket) => socket.join(socket.handshake.auth.room));

listen(server);
