/* The whole terminal, to show a text again and again: mqstat --watch. With ncurses (MQB_NCURSES);
 * without it there is no screen. */
#ifndef MQBROKER_TOOLS_SCREEN_H
#define MQBROKER_TOOLS_SCREEN_H

#include <stdbool.h>

/* Take the terminal over. False: there is none that can be, or this was built without ncurses. */
bool screen_open(void);

/* Give it back as it was. Fine if it was not taken. */
void screen_close(void);

/* Show a text: UTF-8 lines, without control characters. What does not fit is reached with the arrow
 * keys. */
void screen_show(const char *text);

/* Let so many milliseconds go by, in which keys scroll. False: 'q' was pressed, or an interruption
 * came. */
bool screen_wait(int milliseconds);

#endif
